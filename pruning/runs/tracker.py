"""The interface of trackers, and a tracker that does nothing. Trackers only copy what the result files contain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

# Called during a search with the number of masks scored so far and the best loss.
Note: TypeAlias = Callable[[int, float], None]


class Tracker(Protocol):
    """The interface of trackers. If `start` or `record` raises, the caller warns. The other methods never raise."""

    def start(self, results: Path) -> None:
        """Prepare the tracker; called once, before any cell runs."""
        ...

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """A context for the run of a cell; it yields the function to call after each score."""
        ...

    def finished(self, folder: Path) -> None:
        """Called when a cell's folder contains a result or a failure."""
        ...

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record the cells in these folders. A cell that was recorded before is not recorded twice."""
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

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Nothing to do."""
