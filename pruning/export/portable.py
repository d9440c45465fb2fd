"""Text that leaves this machine: without its paths, and escaped for Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def portable(settings: Any) -> Any:
    """Settings in which each absolute path is replaced by its last part, at any depth."""
    if isinstance(settings, Mapping):
        return {name: portable(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [portable(value) for value in settings]
    if isinstance(settings, str) and settings.startswith(("/", "~")):
        return PurePath(settings).name or settings
    return settings


def escaped(text: str) -> str:
    """Text in one line whose characters mean themselves in Markdown, in its tables, and in HTML."""
    plain = re.sub(r"([\\`*\[\]|#!~]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A span of code in one line, whatever backticks the text has; not for cells of tables."""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{one_line(text)}{pad}{fence}"


def code_block(text: str) -> str:
    """A block of code, whatever backticks the text has."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, so that it cannot end a comment or a table."""
    return "".join(c if c.isprintable() else " " for c in text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
