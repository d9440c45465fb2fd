"""Digests of files, texts and JSON data."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any, TypeAlias

SMALL = 1 << 16  # bytes; smaller files are read each time
# A file that has changed within this time can change again without a new time stamp, so its digest is not kept.
SETTLED = 2_000_000_000  # nanoseconds

State: TypeAlias = list[int]  # size, inode, and the times of modification and of change in nanoseconds
_memory: dict[Path, tuple[State, str]] = {}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises OSError if the file cannot be read.

    A process reads a large file once, and again only after the file has changed.
    """
    state, started = file_state(path), time.time_ns()
    place = path.absolute()
    if (known := _memory.get(place)) is not None and known[0] == state:
        return known[1]
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if state[0] >= SMALL and started - state[3] > SETTLED and file_state(path) == state:
        _memory[place] = (state, sha256)
    return sha256


def file_state(path: Path) -> State:
    """What changes if a file changes. A program can set the time of modification back, but not the time of change."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: Any) -> str:
    """The first eight hex digits of the SHA-256 of JSON data; the order of keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))[:8]
