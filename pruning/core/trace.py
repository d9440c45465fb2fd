"""`trace.jsonl`, the journal of a cell: one line per score, in the order in which the search needed them.

This module holds the file's only writer and reader. Each line is written in a single call, so a kill can tear at
most the last line. The reader skips a torn last line, because a writer may still be completing it. The caller decides
what to do about a line that is complete but damaged.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from pruning.core import atomic_files

NAME = "trace.jsonl"
BEGINNING = b'{"dropped": ['  # of every line that `append_trace` writes
BOUNDS = "trace_bounds.jsonl"  # lower bounds of scores, with forward.bounds=true
FLOAT32 = "trace_float32.jsonl"  # float32 scores of masks in near ties


class TraceLine(TypedDict):
    """One line of the journal."""

    dropped: Annotated[
        list[int],
        "The removed units by number: blocks, or sub-layers, of which 2i is the attention of block i and 2i + 1 its "
        "MLP. Empty in the first line, which is the dense model's.",
    ]
    loss: Annotated[float, "The loss: the weighted mean of the terms."]
    samples: Annotated[list[float], "A term for each sample."]
    seconds: Annotated[float, "What the evaluation took; 0 for a score that another cell had computed."]
    of: NotRequired[
        Annotated[int, "Only in a partial score (over the first samples): the number of all samples."]
    ]
    parts: NotRequired[
        Annotated[
            int,
            "Only in a full score that a race put together: in how many parts its samples were scored. Rounding "
            "differs from that of one part, so the final mask is scored again as a whole.",
        ]
    ]


@dataclass(frozen=True)
class TraceEntry:
    """A complete line: its number, counted from 1; the offset after it; and its content, or None if it is damaged."""

    number: int
    end: int
    line: TraceLine | None


def read_trace(path: Path, start: int = 0) -> Iterator[TraceEntry]:
    """Yield the complete lines from byte `start` on; nothing if the file does not exist."""
    if path.exists():
        for number, (end, line) in enumerate(atomic_files.read_lines(path, start), start=1):
            yield TraceEntry(number, end, _parsed(line))


def read_masks(path: Path, start: int = 0) -> Iterator[tuple[int, int, tuple[int, ...] | None]]:
    """Yield (offset of the line, offset after it, removed blocks) for each complete line from byte `start` on.

    The rest of a line is not read, so it can be damaged. The blocks are None if they cannot be read either.
    """
    known: dict[bytes, tuple[int, ...]] = {}
    for end, line in atomic_files.read_lines(path, start):
        text = line[len(BEGINNING) : line.find(b"]")] if line.startswith(BEGINNING) else line
        if text not in known and (blocks := _blocks(text, line)) is not None:
            known[text] = blocks
        yield start, end, known.get(text)
        start = end


def read_line(path: Path, offset: int) -> TraceLine | None:
    """The line that begins at a byte; None if it is damaged, or gone."""
    try:
        entry = next(read_trace(path, offset), None)
    except OSError:
        return None
    return None if entry is None else entry.line


def append_trace(path: Path, line: TraceLine) -> None:
    """Append a line, and return only after it is written."""
    atomic_files.append_line(path, line)


def _blocks(text: bytes, line: bytes) -> tuple[int, ...] | None:
    """The removed blocks of a line; `text` is what stands between their brackets, or the whole line."""
    if re.fullmatch(rb"(\d+(, \d+)*)?", text):
        return tuple(map(int, text.split(b", "))) if text else ()
    parsed = _parsed(line)
    return None if parsed is None else tuple(parsed["dropped"])


def _parsed(text: bytes) -> TraceLine | None:
    try:
        data: Any = json.loads(text)
        numbers = [data["loss"], data["seconds"], *data["samples"]]
        valid = all(type(block) is int for block in data["dropped"]) and all(map(math.isfinite, numbers))
    except (ValueError, KeyError, TypeError):
        return None
    return cast(TraceLine, data) if valid else None
