"""Run a study: check all cells, run those that are not done, record failures, print a summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import (
    BusyError,
    InputError,
    MismatchError,
    OutOfReachError,
    PruningError,
    RankError,
    UnreachableError,
    merged_error,
)
from pruning.core.result import NAME, Failure, read_done
from pruning.distributed import collectives
from pruning.launcher import Launcher
from pruning.launcher.cell_state import State, finished
from pruning.launcher.local import InProcess
from pruning.runs.cell import Cell
from pruning.study.grid import Composed, distinct_cells, note_study, run_checks
from pruning.study.outcome import Outcome, say, say_how_to_resume, sum_up

log = logging.getLogger(__name__)

FAILED, BAD_INPUT = 1, 2
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def execute(configs: Sequence[Composed]) -> None:
    """Run a study as a command: print errors in plain words, and exit with a nonzero status if a cell failed.

    Under torchrun, all processes run each cell together and only the first one prints.
    """
    try:
        with collectives.joined_ranks():
            if not collectives.is_first():
                log.parent.setLevel(logging.WARNING)  # type: ignore[union-attr]
            status = run_study(configs)
    except PruningError as error:
        print(f"{error}", file=sys.stderr)  # noqa: T201
        status = FAILED if isinstance(error, (MismatchError, RankError)) else BAD_INPUT
    if status:
        raise SystemExit(status)


def run_study(configs: Sequence[Composed]) -> int:
    """Run the cells of composed configurations; returns the exit status.

    Before the first cell starts, raises one InputError that lists everything that is wrong.
    """
    from pruning.config.compose import launcher_of

    cells, launcher = distinct_cells(configs), launcher_of([config for config, _ in configs])
    results = cells[0].results
    checks = [] if isinstance(launcher, InProcess) else [partial(_check_jobs, launcher, cells)]
    run_checks([*(partial(_check, cell) for cell in cells), *checks])
    atomic_files.check_writable(results)
    _check_export(cells)
    outcome = Outcome()
    try:
        _run(cells, launcher, outcome)
    except KeyboardInterrupt:
        say_how_to_resume(cells, outcome)
        return INTERRUPTED
    _track(cells, outcome)
    sum_up(cells, outcome)
    _export(cells, outcome)
    return FAILED if outcome.failed else 0


def _check(cell: Cell) -> None:
    from pruning.runs.prepare import check_cell

    check_cell(cell)


def _check_jobs(launcher: Launcher, cells: Sequence[Cell]) -> None:
    """Raise InputError if the launcher cannot run these cells."""
    if collectives.world_size() > 1:
        raise InputError(
            "torchrun works with launcher=local only: the other launchers start the ranks of each job themselves; "
            "set model.resources.ranks."
        )
    launcher.check({cell.model.name: cell.model.resources for cell in cells})
    if not launcher.wait and any(cell.export is not None for cell in cells):
        raise InputError("export=DIR needs the finished cell: leave launcher.wait=true, or export it later.")


def _run(cells: Sequence[Cell], launcher: Any, outcome: Outcome) -> None:
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
    _start_tracker(cells)
    _run_here(prepared, outcome)


def _run_jobs(cells: Sequence[Cell], pending: Sequence[Cell], launcher: Launcher, outcome: Outcome) -> None:
    """Submit cells that are not in flight yet; unless launcher.wait=false, wait for all cells in flight."""
    from pruning.launcher import submit
    from pruning.launcher.cell_state import cell_states

    results = cells[0].results
    with submit.submission_lock(results):
        submitted = cell_states(results, [cell.key for cell in pending])
        flying = {key: cell for key, cell in submitted.items() if cell.state.in_flight}
        prepared = _prepare([cell for cell in pending if cell.key not in flying], outcome)
        note_study([cell for cell in cells if cell.key not in outcome.left_out])
        counts = (len(cells), len(outcome.done), len(flying), len(prepared))
        log.info("cells: %d asked for, %d done, %d in flight, %d to submit", *counts)
        _start_tracker(cells)
        if prepared:
            launcher.submit(results, submit.tasks(prepared, launcher.order), str(Path.cwd()))
    keys = [*flying, *(ready.cell.key for ready in prepared)]
    if not launcher.wait:
        outcome.in_flight = cell_states(results, keys)
        return
    for key, ended in submit.settle(launcher, results, keys).items():
        if ended.state is State.DONE:
            outcome.done[key] = read_done(results / key)
        else:
            outcome.failed[key] = submit.failure(ended)


def _run_here(prepared: Sequence[Any], outcome: Outcome) -> None:
    """Run prepared cells in this process, one after the other."""
    from pruning.runs.run_cell import record_failure, run

    for number, ready in enumerate(prepared, start=1):
        log.info("cell %d of %d: %s", number, len(prepared), ready.cell.key)
        try:
            outcome.done[ready.cell.key] = run(ready)
        except BusyError as error:
            outcome.failed[ready.cell.key] = _busy(ready.cell, error)
        except Exception as error:
            log.error("cell %s failed: %s: %s", ready.cell.key, type(error).__name__, error)
            outcome.failed[ready.cell.key] = record_failure(ready.cell, error)
            common = isinstance(error, PruningError) and not isinstance(error, RankError)
            if collectives.world_size() > 1 and not common:
                raise  # the ranks are out of step: collectives would hang


def _is_done(cell: Cell, outcome: Outcome) -> bool:
    """Whether the cell's files hold a result with the requested evaluation; if so, adds it to `outcome`."""
    if (result := collectives.on_first(lambda: finished(cell))) is None:
        return False
    outcome.done[cell.key] = result
    return True


def _prepare(cells: Sequence[Cell], outcome: Outcome) -> list[Any]:
    """Draw and check the samples of all cells before the first search starts.

    Bad input stops the command. If a model or data set cannot be reached, only its cells fail. A search that would
    take too many evaluations is left out if other cells remain. Raises InputError.
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
    if not (ready or errors or outcome.done or outcome.failed):
        errors += outcome.left_out.values()
    if errors:
        raise merged_error(errors)
    return ready


def _start_tracker(cells: Sequence[Cell]) -> None:
    """Create what the tracker needs, once, before any cell runs. If that fails, warn."""
    _guarded("start", lambda: cells[0].tracker.start(cells[0].results))


def _track(cells: Sequence[Cell], outcome: Outcome) -> None:
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


def _busy(cell: Cell, error: BusyError) -> Failure:
    log_path = str(cell.folder / "launch.log")
    return {"cell": cell.key, "error": {"type": "busy", "message": str(error), "log": log_path}}


def _check_export(cells: Sequence[Cell]) -> None:
    """Raise InputError before any search if the smaller model cannot be written to the export directory."""
    if all(cell.export is None for cell in cells):
        return
    if len(cells) > 1:
        raise InputError(
            f"export=DIR is for one cell, and this command asks for {len(cells)}: export finished cells one by one "
            "with `python -m pruning.export CELL out=DIR`."
        )
    from pruning.export.output_dir import check_target

    assert cells[0].export is not None
    check_target(cells[0].export, cells[0].key)


def _export(cells: Sequence[Cell], outcome: Outcome) -> None:
    """If the command asks for an export, write the smaller model and print what was lost and gained."""
    for cell in cells if collectives.is_first() else ():
        if cell.export is not None and cell.key in outcome.done:
            from pruning.export.pipeline import export_cell

            say(f"\n{export_cell(cell.folder, cell.export)}")
