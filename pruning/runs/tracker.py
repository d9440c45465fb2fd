"""What a tracker offers, and the tracker that does nothing. Trackers mirror results; the files are the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pruning.runs.cell import Cell

# Told while a cell is searched: the number of masks that are scored in full, and the best loss so far.
Note: TypeAlias = Callable[[int, float], None]


class Tracker(Protocol):
    """What every tracker offers. `start` and `record` may raise: the caller warns and goes on. The others do not."""

    def start(self, results: Path) -> None:
        """Make ready, once, before any cell runs."""
        ...

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """A context in which a cell is run."""
        ...

    def finished(self, folder: Path) -> None:
        """A cell has a result, or a failure, in its folder."""
        ...

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record the cells in these folders; recording one twice is the same as once."""
        ...


@contextmanager
def silent() -> Iterator[Note]:
    """Nothing is told."""
    yield lambda *_: None


@dataclass(frozen=True)
class NoTracker:
    """No tracker."""

    def start(self, results: Path) -> None:
        """Nothing to do."""

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Nothing to do."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Nothing to do."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Nothing to do."""
