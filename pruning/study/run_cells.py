"""Run the cells of a study that are not done: in this process, or as jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.core.errors import (
    BusyError,
    InputError,
    OutOfReachError,
    PruningError,
    RankError,
    UnreachableError,
    merged_error,
)
from pruning.core.os_errors import is_disk_full, sentence
from pruning.core.result import LOG, Failure, read_done
from pruning.distributed import collectives
from pruning.launcher import Launcher
from pruning.launcher.cell_state import State, finished
from pruning.launcher.local import InProcess
from pruning.runs.cell import Cell
from pruning.study.grid import note_study
from pruning.study.outcome import Outcome
from pruning.study.trackers import start_tracker

log = logging.getLogger(__name__)


def run_cells(cells: Sequence[Cell], launcher: Any, outcome: Outcome) -> None:
    """Run what is not done yet and add every cell to `outcome`. Raises InputError if a cell's input is wrong."""
    pending = [cell for cell in cells if not _is_done(cell, outcome)]
    if pending and not isinstance(launcher, InProcess):
        _run_jobs(cells, pending, launcher, outcome)
        return
    prepared = _prepare(pending, outcome) if pending else []
    note_study([cell for cell in cells if cell.key not in outcome.left_out])
    if not pending:
        log.info("every cell was done: %d of %d; nothing to run", len(outcome.done), len(cells))
        return
    log.info("cells: %d asked for, %d done, %d to run", len(cells), len(outcome.done), len(pending))
    start_tracker(cells)
    _run_here(prepared, outcome)


def _run_jobs(cells: Sequence[Cell], pending: Sequence[Cell], launcher: Launcher, outcome: Outcome) -> None:
    """Submit cells that are not in flight yet; unless launcher.wait=false, wait for all cells in flight."""
    from pruning.launcher import submit
    from pruning.launcher.cell_state import cell_states

    results = cells[0].results
    with submit.submission_lock(results):
        submitted = cell_states(results, [cell.key for cell in pending])
        flying = {key: cell for key, cell in submitted.items() if cell.state.in_flight}
        prepared = _prepare([cell for cell in pending if cell.key not in flying], outcome, bool(flying))
        note_study([cell for cell in cells if cell.key not in outcome.left_out])
        counts = (len(cells), len(outcome.done), len(flying), len(prepared))
        log.info("cells: %d asked for, %d done, %d in flight, %d to submit", *counts)
        start_tracker(cells)
        if prepared:
            launcher.submit(results, submit.tasks(prepared, launcher.order), str(Path.cwd()))
    keys = [*flying, *(ready.cell.key for ready in prepared)]
    if not launcher.wait:
        outcome.in_flight = cell_states(results, keys)
        return
    asked, again = {cell.key: cell for cell in pending}, []
    for key, ended in submit.settle(launcher, results, keys).items():
        if ended.state is not State.DONE:
            outcome.failed[key] = submit.failure(ended)
        elif key not in flying:
            outcome.done[key] = read_done(results / key)
        elif not _is_done(asked[key], outcome):
            # Another command has submitted it, with another evaluation or healing.
            again.append(asked[key])
    if again:
        _run_jobs(cells, again, launcher, outcome)


def _warn_about_ranks(cells: Sequence[Cell]) -> None:
    """Log a warning if a model asks for ranks that nobody has started."""
    ranks = max((cell.model.resources.ranks for cell in cells), default=1)
    if ranks > 1 and collectives.world_size() == 1:
        log.warning(
            "model.resources.ranks=%d is a request to launcher=processes and launcher=slurm: with launcher=local, "
            "this is one process, unless torchrun starts more",
            ranks,
        )


def _run_here(prepared: Sequence[Any], outcome: Outcome) -> None:
    """Run prepared cells in this process, one after the other."""
    from pruning.runs.run_cell import run

    _warn_about_ranks([ready.cell for ready in prepared])
    for number, ready in enumerate(prepared, start=1):
        log.info("cell %d of %d: %s", number, len(prepared), ready.cell.key)
        try:
            outcome.done[ready.cell.key] = run(ready)
        except BusyError as error:
            log.warning("%s", error)
            outcome.busy[ready.cell.key] = error
        except Exception as error:
            if is_disk_full(error):
                raise  # no other cell could write either, and a failure could not be recorded
            text = sentence(error) if isinstance(error, OSError) else error
            log.error("cell %s failed: %s: %s", ready.cell.key, type(error).__name__, text)
            outcome.failed[ready.cell.key] = _recorded(ready.cell, error)
            common = isinstance(error, PruningError) and not isinstance(error, RankError)
            if collectives.world_size() > 1 and not common:
                raise  # the ranks are out of step: collectives would hang


def _is_done(cell: Cell, outcome: Outcome) -> bool:
    """Whether the cell's files hold a result with the requested evaluation; if so, adds it to `outcome`."""
    if (result := collectives.on_first(lambda: finished(cell))) is None:
        return False
    outcome.done[cell.key] = result
    return True


def _prepare(cells: Sequence[Cell], outcome: Outcome, in_flight: bool = False) -> list[Any]:
    """Draw and check the samples of all cells before the first search starts.

    Raises one InputError for all bad input. If a model or data set cannot be reached, only the cells that use it
    fail. A cell whose search would need too many evaluations is left out; if no other cell remains, and none is in
    flight, raises InputError.
    """
    from pruning.runs.prepare import prepare
    from pruning.runs.run_cell import record_failure

    ready, errors = [], []
    for cell in cells:
        try:
            ready.append(prepare(cell))
        except OutOfReachError as error:
            outcome.left_out[cell.key] = error
        except InputError as error:
            errors.append(error)
        except UnreachableError as error:
            outcome.failed[cell.key] = record_failure(cell, error)
    if not (ready or errors or outcome.done or outcome.failed or in_flight):
        errors += outcome.left_out.values()
    if errors:
        raise merged_error(errors)
    return ready


def _recorded(cell: Cell, error: Exception) -> Failure:
    """Record a failure in the cell's files. If these cannot be written, only return the failure."""
    from pruning.runs.run_cell import record_failure

    try:
        return record_failure(cell, error)
    except OSError as unwritable:
        if is_disk_full(unwritable):
            raise
        log.warning("the failure of %s is not recorded: %s", cell.key, sentence(unwritable))
        text = sentence(error) if isinstance(error, OSError) else str(error)
        log_path = str(cell.folder / LOG)
        return {"cell": cell.key, "error": {"type": type(error).__name__, "message": text, "log": log_path}}
