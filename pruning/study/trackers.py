"""Call the tracker of a study. A tracker that fails is a warning: the results are in files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pruning.core.result import NAME
from pruning.distributed import collectives
from pruning.runs.cell import Cell
from pruning.study.outcome import Outcome

log = logging.getLogger(__name__)


def start_tracker(cells: Sequence[Cell]) -> None:
    """Create what the tracker needs, once, before any cell runs. If that fails, warn."""
    _guarded("start", lambda: cells[0].tracker.start(cells[0].results))


def record_cells(cells: Sequence[Cell], outcome: Outcome) -> None:
    """Record the cells that have a result, if any of this command is done."""
    folders = [cell.folder for cell in cells if (cell.folder / NAME).exists()]
    if folders and outcome.done:
        _guarded("record", lambda: cells[0].tracker.record(cells[0].results, folders))


def _guarded(step: str, action: Callable[[], None]) -> None:
    if not collectives.is_first():
        return
    try:
        action()
    except Exception as error:
        log.warning(
            "the tracker could not %s (%s): results are safe; run `make track` to try again", step, error
        )
