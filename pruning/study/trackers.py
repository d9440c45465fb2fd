"""Call the tracker of a study. If the tracker fails, only warn: the results are in files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pruning.core.result import NAME
from pruning.distributed import collectives
from pruning.runs.cell import Cell
from pruning.study.outcome import Outcome

log = logging.getLogger(__name__)


def start_tracker(cells: Sequence[Cell]) -> None:
    """Create what the tracker needs, once, before any cell runs. If that fails, warn."""
    _guarded("start", lambda: cells[0].tracker.start(cells[0].results))


def record_cells(cells: Sequence[Cell], outcome: Outcome) -> None:
    """If any cell of this command is done, record all of the command's cells that have a result."""
    folders = [cell.folder for cell in cells if (cell.folder / NAME).exists()]
    if folders and outcome.done:
        _guarded("record", lambda: cells[0].tracker.record(cells[0].results, folders))


def record_published(cell: Cell, folder: Path) -> None:
    """Record the table of published masks. If that fails, warn: the table is in files."""
    _guarded("start", lambda: cell.tracker.start(cell.results))
    _guarded("record the table", lambda: cell.tracker.table(cell.results, folder))


def _guarded(step: str, action: Callable[[], None]) -> None:
    if not collectives.is_first():
        return
    try:
        action()
    except Exception as error:
        log.warning(
            "the tracker could not %s (%s): results are safe; run `python -m pruning.track RESULTS`, with "
            "tracker.uri=URI if you set it, to try again",
            step,
            error,
        )
