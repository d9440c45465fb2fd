"""The interface of trackers, and a tracker that does nothing. Trackers only copy what the result files contain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

BEST = "search/best_so_far"


class Note(Protocol):
    """Called during a search with the number of masks scored so far and the lowest loss.

    In a healing, it is called with the number of tokens, a loss, and the name of the loss.
    """

    def __call__(self, step: int, value: float, name: str = BEST, /) -> None:
        """Send one number."""
        ...


class Tracker(Protocol):
    """The interface of trackers. If `start` or `record` raises, the caller only warns. Other methods never raise."""

    def start(self, results: Path) -> None:
        """Prepare the tracker; called once, before any cell runs."""
        ...

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """A context for the run of a cell. The context yields a function; the search calls it after each score."""
        ...

    def finished(self, folder: Path) -> None:
        """Called after each run of a cell. Its folder then contains a result or a failure."""
        ...

    def record(self, results: Path, folders: Sequence[Path], again: bool = False) -> None:
        """Record the cells in these folders. A cell that is already recorded is not recorded again.

        With `again`, it is if the store has other numbers than its result.
        """
        ...

    def table(self, results: Path, folder: Path) -> None:
        """Record the table of published masks in `folder`; an earlier record of it is replaced."""
        ...


@contextmanager
def silent() -> Iterator[Note]:
    """A context that yields a function that does nothing."""
    yield lambda *_: None


@dataclass(frozen=True)
class NoTracker:
    """The tracker that does nothing."""

    def start(self, results: Path) -> None:
        """Nothing to do."""

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Nothing to do."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Nothing to do."""

    def record(self, results: Path, folders: Sequence[Path], again: bool = False) -> None:
        """Nothing to do."""

    def table(self, results: Path, folder: Path) -> None:
        """Nothing to do."""
