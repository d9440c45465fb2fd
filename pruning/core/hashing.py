"""Digests of files, texts and JSON data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises OSError if the file cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: Any) -> str:
    """The first eight hex digits of the SHA-256 of JSON data; the order of keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))[:8]
