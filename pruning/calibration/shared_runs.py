"""Find the runs of tokens that two sets of windows share.

Two windows share text if both contain the same run of `OVERLAP` tokens. If one of them has fewer than twice as many,
half of the shorter one is enough. Such a run has at least `SHORTEST` tokens, or is the whole window if that is
shorter. How long a run must be is decided for each pair of windows, so that long windows of a set do not hide what
its short ones share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar

OVERLAP, SHORTEST = 32, 20

Run: TypeAlias = tuple[int, ...]


class Window(Protocol):
    """A row of tokens."""

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The tokens."""
        ...


W = TypeVar("W", bound=Window)


def shared_runs(rows: Sequence[Window], others: Sequence[Window]) -> Iterator[tuple[int, Run]]:
    """Yield the number of each row that shares a run of tokens with one of the others, with each such run."""
    needs = [_needed(row) for row in rows]
    for length in sorted({*needs, *map(_needed, others)}):
        # The shorter need of a pair counts: rows with this need meet all longer ones, on both sides.
        exact = _runs((row for row in others if _needed(row) == length), length)
        longer = _runs((row for row in others if _needed(row) > length), length)
        for number, (row, need) in enumerate(zip(rows, needs, strict=True)):
            if need >= length:
                own = _runs([row], length)
                found = own & exact if need > length else own & (exact | longer)
                yield from ((number, run) for run in found)


def apart(rows: Sequence[W], others: Sequence[Window]) -> tuple[W, ...]:
    """The rows that share no run of tokens with the others."""
    shared = {number for number, _ in shared_runs(rows, others)}
    return tuple(row for number, row in enumerate(rows) if number not in shared)


def _needed(row: Window) -> int:
    """How many tokens a run must have to count as shared with a row that is at least as long."""
    length = len(row.input_ids)
    return min(OVERLAP, length, max(SHORTEST, length // 2))


def _runs(rows: Iterable[Window], length: int) -> set[Run]:
    ids = (row.input_ids for row in rows)
    return {row[i : i + length] for row in ids for i in range(len(row) - length + 1)}
