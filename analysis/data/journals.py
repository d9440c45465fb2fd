"""The journals of finished cells: which masks were scored, and what is wrong with files that are not whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from pruning.core.trace import NAME as TRACE
from pruning.core.trace import TraceEntry, TraceLine, read_trace

from .mlflow_store import folder


def trace(results: Path | str, cell: str) -> list[TraceLine]:
    """The scored masks of a cell in order: dropped, loss, samples, seconds. Partial scores are omitted."""
    return _whole(_lines(read_trace(folder(results) / cell / TRACE)))


@dataclass(frozen=True)
class Journals:
    """The scored masks of each finished cell, and what is wrong with the files that are not whole.

    `lines` also has the partial scores of races, which only costs need.
    """

    lines: dict[str, list[TraceLine]]
    damages: list[str]

    @cached_property
    def traces(self) -> dict[str, list[TraceLine]]:
        """The scores over all samples."""
        return {cell: _whole(lines) for cell, lines in self.lines.items()}


def journals(results: Path | str, finished: pd.DataFrame) -> Journals:
    """Read the journals of finished cells. Of a damaged journal, the scores that can be read are kept."""
    lines, damages = dict[str, list[TraceLine]](), []
    for cell, dropped in zip(finished["cell"], finished["dropped"], strict=True):
        path = folder(results) / str(cell) / TRACE
        try:
            entries = list(read_trace(path))
            lines[cell] = _lines(entries)
            reason = _lacking(path, entries, _whole(lines[cell]), dropped)
            lines[cell] = _of_usual_length(lines[cell])
        except OSError as error:
            lines[cell], reason = [], f"cannot be read ({error.strerror})"
        if reason:
            damages.append(f"{cell}/{TRACE} {reason}")
    return Journals(lines, damages)


def _lines(entries: Iterable[TraceEntry]) -> list[TraceLine]:
    return [entry.line for entry in entries if entry.line is not None]


def _whole(lines: Iterable[TraceLine]) -> list[TraceLine]:
    return [line for line in lines if "of" not in line]


def _of_usual_length(lines: list[TraceLine]) -> list[TraceLine]:
    """The lines without whole scores that have another number of samples than most of the cell's."""
    counts = Counter(len(line["samples"]) for line in _whole(lines))
    usual = counts.most_common(1)[0][0] if counts else 0
    return [line for line in lines if "of" in line or len(line["samples"]) == usual]


def _lacking(path: Path, entries: list[TraceEntry], scores: list[TraceLine], dropped: tuple[int, ...]) -> str:
    """What is wrong with the journal of a finished cell; empty if nothing is."""
    if not path.exists():
        return "is missing"
    if damaged := [entry.number for entry in entries if entry.line is None]:
        return f"is damaged in line {damaged[0]}"
    if path.stat().st_size > (entries[-1].end if entries else 0):
        return "is cut off in its last line"
    if not any(tuple(score["dropped"]) == dropped for score in scores):
        return "is cut off: it has no score of the mask that the cell found"
    if len({len(score["samples"]) for score in scores}) > 1:
        return "is damaged: its scores have different numbers of samples"
    return ""
