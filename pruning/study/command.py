"""Run a study: check all cells, run those that are not done, record failures, print a summary."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pruning.config.app import add_hub_models, register
from pruning.config.compose import launcher_of
from pruning.config.groups import CONF
from pruning.config.words import check_choices, check_line, check_words, explained, ordered
from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.terminal import FAILED, INTERRUPTED, guarded
from pruning.engine import collectives
from pruning.launcher import InProcess
from pruning.launcher.local import LocalPool
from pruning.launcher.slurm import Slurm
from pruning.routing.task_study import TaskStudy
from pruning.runs.cell import Cell
from pruning.study import Composed, task_cells
from pruning.study.grid import (
    Outcome,
    distinct_cells,
    joined_ranks,
    record_cells,
    run_cells,
    run_checks,
    say_how_to_resume,
    sum_up,
)
from pruning.study.guide import check_guided, planned, say_result, say_where, speed_cell
from pruning.study.text_tables import say

BUSY = 75  # nothing failed, but another process still runs some of the cells; the value is EX_TEMPFAIL of sysexits


def execute(configs: Sequence[Composed]) -> None:
    """Run a study as a command: print errors in plain words, and exit with a nonzero status if a cell failed.

    Under torchrun, all processes run each cell together, and only the first process prints.
    """
    with guarded(), joined_ranks():
        if status := run_study(configs):
            raise SystemExit(status)


def run_study(configs: Sequence[Composed]) -> int:
    """Run the cells of composed configurations; returns the exit status.

    If any input is wrong, raises one InputError that lists all errors, before the first cell starts.
    """
    if (tasks := task_cells.task_settings(configs)) is not None:
        configs = task_cells.expanded(configs, tasks)
    cells, launcher = distinct_cells(configs), launcher_of([config for config, _ in configs])
    if len(cells) == 1:
        cells = [replace(cells[0], alone=True)]
    guided, minutes = (configs[0][0].get(name) for name in ("guide", "minutes"))
    if guided:
        cells = [check_guided(cells, launcher, minutes)]
    elif minutes is not None:
        raise InputError(f"minutes={minutes:g} is for one cell with guide=true: leave it out.")
    _check(cells, launcher)
    if tasks is not None:
        task_cells.check(cells, launcher, tasks)
    storage.check_writable(cells[0].results)
    _check_export(cells)
    outcome = Outcome()
    try:
        if guided:
            cells = [planned(cells[0], minutes)]
            _run_guided(cells[0], launcher, outcome)
        else:
            run_cells(cells, launcher, outcome)
    except KeyboardInterrupt:
        say_how_to_resume(cells, outcome)
        return INTERRUPTED
    record_cells(cells, outcome)
    if guided and cells[0].key in outcome.done:
        say_result(outcome.done[cells[0].key], cells[0].results)
        _export(cells, outcome)
        say_where(cells[0])
    else:
        sum_up(cells, outcome)
        _export(cells, outcome)
        if tasks is not None:
            _route(cells, outcome, tasks)
    return FAILED if outcome.failed else BUSY if outcome.busy else 0


def _check(cells: Sequence[Cell], launcher: InProcess | LocalPool | Slurm) -> None:
    """Raise one InputError with all errors of the cells, and with the launcher's error if it cannot run them."""
    from pruning.runs.prepare import check_cell

    def check_jobs() -> None:
        if isinstance(launcher, InProcess):
            return
        if collectives.world_size() > 1:
            raise InputError(
                "torchrun works with launcher=local only: the other launchers start the ranks of each job "
                "themselves; set model.resources.ranks."
            )
        launcher.check({cell.model.name: cell.model.resources for cell in cells})
        if (
            isinstance(launcher, Slurm)
            and not launcher.wait
            and any(cell.export is not None for cell in cells)
        ):
            raise InputError(
                "export=DIR needs the finished cell: leave launcher.wait=true, or export it later."
            )

    run_checks([*(partial(check_cell, cell) for cell in cells), check_jobs])


def _run_guided(cell: Cell, launcher: InProcess | LocalPool | Slurm, outcome: Outcome) -> None:
    run_cells([cell], launcher, outcome)
    if cell.key not in outcome.done or "speed" in outcome.done[cell.key]["evaluation"]:
        return
    announcements = logging.getLogger(run_cells.__module__)
    announcements.setLevel(logging.WARNING)  # this cell is announced above
    try:
        run_cells([speed_cell(cell)], launcher, second := Outcome())
        run_cells([cell], launcher, outcome)  # the result then has the requested settings again
    finally:
        announcements.setLevel(logging.NOTSET)
    outcome.failed |= second.failed


def _check_export(cells: Sequence[Cell]) -> None:
    """Raise InputError before any search if the smaller model cannot be written to the export directory."""
    if all(cell.export is None for cell in cells):
        return
    if len(cells) > 1:
        raise InputError(
            f"export=DIR is for one cell, and this command asks for {len(cells)}: export finished cells one by one "
            "with `depth-pruning export CELL out=DIR`."
        )
    from pruning.export.pipeline import check_export

    collectives.on_first(lambda: check_export(cells[0]))


def _export(cells: Sequence[Cell], outcome: Outcome) -> None:
    """If the command asks for an export, write the smaller model and print a summary."""
    for cell in cells if collectives.is_first() else ():
        if cell.export is not None and cell.key in outcome.done:
            from pruning.export.pipeline import export_cell

            say(f"\n{export_cell(cell.folder, cell.export, cell.heal.trains)}")


def _route(cells: Sequence[Cell], outcome: Outcome, settings: TaskStudy) -> None:
    from pruning.study.task_routing import route_group, routing_text

    for group in task_cells.groups(cells):
        if waiting := [cell.key for cell in group if cell.key not in outcome.done]:
            say(
                f"\nThe tasks are not crossed before all their sets are found; missing: {', '.join(waiting)}."
            )
            continue
        say(f"\n{routing_text(route_group(group, [outcome.done[cell.key] for cell in group], settings))}")


# Start Hydra for a command, and reword its errors.


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _launch(composed: DictConfig) -> None:
    execute([(composed, HydraConfig.get().runtime.choices)])


def launch() -> None:
    """Run the command in `sys.argv`. Raises InputError if Hydra cannot read it or a setting does not exist."""
    check_line(sys.argv[1:])
    sys.argv[1:] = words = ordered(sys.argv[1:])
    register()
    add_hub_models(words)
    check_words(words)
    check_choices(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        _launch()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, words) from error
