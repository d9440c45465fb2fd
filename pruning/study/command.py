"""Run a study: check all cells, run unfinished ones, record failures, and print a summary."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pruning.calibration.samples import Samples
from pruning.config.app import add_hub_models, register
from pruning.config.compose import cell_of, launcher_of
from pruning.config.groups import CONF
from pruning.config.words import check_choices, check_line, check_words, explained, ordered
from pruning.core import errors, records, storage
from pruning.core.records import NAME, DoneResult, Failure, same_settings
from pruning.core.terminal import FAILED, INTERRUPTED, guarded, typed_command
from pruning.engine import collectives
from pruning.launcher import InProcess
from pruning.launcher.cell_state import CellState, StateName, cell_states, finished, settle
from pruning.launcher.local import LocalPool
from pruning.launcher.slurm import Slurm
from pruning.launcher.submission import latest, submission_lock, tasks
from pruning.models.handle import shared
from pruning.routing.task_study import TaskStudy
from pruning.runs.cell import Cell, Prepared
from pruning.study import task_cells, text_tables
from pruning.study.guide import Watch, check_guided, planned, say_result, say_took, say_where, timed
from pruning.study.task_cells import Composed
from pruning.study.text_tables import say

log = logging.getLogger(__name__)

BUSY = 75  # nothing failed, but another process still runs some of the cells; the value is EX_TEMPFAIL of sysexits


def execute(configs: Sequence[Composed]) -> None:
    """Run a study as a command, on all ranks of torchrun; exit with a nonzero status if a cell failed."""
    with guarded(), joined_ranks():
        if status := run_study(configs):
            raise SystemExit(status)


def run_study(configs: Sequence[Composed]) -> int:
    """Run the cells of composed configurations, and return the exit status. Before that, raise all input errors."""
    watch = Watch()
    if (study := task_cells.task_settings(configs)) is not None:
        configs = task_cells.expanded(configs, study)
    cells, launcher = distinct_cells(configs), launcher_of([config for config, _ in configs])
    if len(cells) == 1:
        cells = [cells[0].under(alone=True)]
    guided, minutes = (configs[0][0].get(name) for name in ("guide", "minutes"))
    if guided:
        cells = [check_guided(cells, launcher, minutes)]
    elif minutes is not None:
        raise errors.InputError(f"minutes={minutes:g} is for one cell with guide=true: leave it out.")
    _check(cells, launcher)
    if study is not None:
        task_cells.check(cells, launcher, study)
    outcome, plan = Outcome(), None
    try:
        if guided:
            plan = planned(cells[0], minutes, watch)
            if minutes is not None and (first := plan.untrained()) is not None:
                run_cells([first], launcher, outcome)
                if first.key in outcome.done:
                    plan = dataclasses.replace(plan, cell=plan.replanned(minutes, watch.seconds()))
                    del outcome.done[first.key]
            cells = [plan.cell]
        if not outcome.failed:
            run_cells(cells, launcher, outcome)
        if guided and (done := outcome.done.get(cells[0].key)) is not None:
            outcome.done[cells[0].key] = timed(cells[0], done)
    except KeyboardInterrupt:
        say_how_to_resume(cells, outcome)
        return INTERRUPTED
    record_cells(cells, outcome)
    if guided and cells[0].key in outcome.done:
        say_result(outcome.done[cells[0].key], cells[0].command.results)
        _export(cells[0], outcome)
        say_where(cells[0])
        assert plan is not None
        say_took(plan, watch)
    else:
        sum_up(cells, outcome)
        _export(cells[0], outcome)
        if study is not None:
            _route(cells, outcome, study)
    return FAILED if outcome.failed else BUSY if outcome.busy else 0


def _check(cells: Sequence[Cell], launcher: InProcess | LocalPool | Slurm) -> None:
    """Raise one InputError with all errors of the cells and of the command, before any search."""
    from pruning.runs.prepare import check_cell

    def check_command() -> None:
        if any(cell.command.export is not None for cell in cells) and len(cells) > 1:
            raise errors.InputError(
                f"export=DIR is for one cell, and this command asks for {len(cells)}: export finished cells one by "
                "one with `depth-pruning export CELL out=DIR`."
            )
        if isinstance(launcher, InProcess):
            return
        if collectives.world_size() > 1:
            raise errors.InputError(
                "torchrun works with launcher=local only: the other launchers start the ranks of each job "
                "themselves; set model.resources.ranks."
            )
        if isinstance(launcher, Slurm) and not launcher.wait and cells[0].command.export is not None:
            raise errors.InputError(
                "export=DIR needs the finished cell: leave launcher.wait=true, or export it later."
            )
        launcher.check({cell.model.name: cell.model.resources for cell in cells})

    run_checks([*(partial(check_cell, cell) for cell in cells), check_command])
    storage.check_writable(cells[0].command.results)
    if cells[0].command.export is not None:
        from pruning.export.pipeline import check_export

        collectives.on_first(lambda: check_export(cells[0]))


def _export(cell: Cell, outcome: Outcome) -> None:
    """If the command asks for an export, write the smaller model and print a summary."""
    if cell.command.export is not None and cell.key in outcome.done and collectives.is_first():
        from pruning.export.pipeline import export_cell

        say(f"\n{export_cell(cell.folder, cell.command.export, cell.heal.trains)}")


def _route(cells: Sequence[Cell], outcome: Outcome, settings: TaskStudy) -> None:
    from pruning.study.task_routing import route_group, routing_text

    for group in task_cells.groups(cells):
        if waiting := [cell.key for cell in group if cell.key not in outcome.done]:
            say(f"\nThe tasks are crossed when all their sets are found; missing: {', '.join(waiting)}.")
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


@dataclass
class Outcome:
    """The outcome of each cell of a command, by the cell's key."""

    done: dict[str, DoneResult] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    busy: dict[str, errors.BusyError] = field(default_factory=dict)
    left_out: dict[str, errors.OutOfReachError] = field(default_factory=dict)
    in_flight: dict[str, CellState] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)  # cells whose jobs this command waits for


@contextmanager
def joined_ranks() -> Iterator[None]:
    """A context in which the ranks are joined, and only the first rank logs its progress."""
    with collectives.joined_ranks():
        if not collectives.is_first():
            logging.getLogger("pruning").setLevel(logging.WARNING)
        yield


# Find the distinct cells, and list them in the file of their study.


def distinct_cells(configs: Sequence[Composed]) -> list[Cell]:
    """The distinct cells, grouped by model. Raises one InputError that lists all errors."""
    cells = run_checks([partial(cell_of, *config) for config in configs])
    places: dict[str, dict[Path, None]] = {}
    for cell in cells:
        if cell.model.in_directory:
            places.setdefault(cell.model.name, {})[cell.model.location] = None
    for name, several in places.items():
        if len(several) > 1:
            raise errors.InputError(
                f"model.name={name} names {len(several)} different models ({', '.join(map(str, several))}): run a "
                "separate command for each, and give each a model.name of its own."
            )
    models = shared(cell.model for cell in cells)
    cells = [dataclasses.replace(cell, model=model) for cell, model in zip(cells, models, strict=True)]
    if not cells:
        raise errors.InputError("no cell is asked for: a swept setting has no values. Give it at least one.")
    run_checks([partial(getattr, cell, "key") for cell in cells])
    distinct: dict[str, Cell] = {}
    for cell in cells:
        same = distinct.setdefault(cell.key, cell)
        names = dict.fromkeys([*cell.config, *same.config])  # a group whose option is `none` can be absent
        if other := [n for n in names if not same_settings(cell.config.get(n), same.config.get(n))]:
            raise errors.InputError(
                f"two configurations of cell {cell.key} differ only in {', '.join(other)}, which is not part of a "
                "cell's key. Run a separate command for each value."
            )
    if len({cell.command.results for cell in cells}) > 1:
        raise errors.InputError("paths.results differs between cells: run one command for each folder.")
    # Cells of one model are adjacent, so that the model is loaded once.
    order = {model: number for number, model in enumerate(dict.fromkeys(cell.model for cell in cells))}
    return sorted(distinct.values(), key=lambda cell: order[cell.model])


def run_checks(steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """The return values of all steps. If any steps fail, raises one InputError with all their errors."""
    values, wrong = [], []
    for step in steps:
        try:
            values.append(step())
        except errors.PruningError as error:
            wrong.append(error)
    if wrong:
        raise errors.merged_error(wrong)
    return values


def note_study(cells: Sequence[Cell]) -> None:
    """Add cells to the list of their study, so that figures can report cells that are still missing."""
    if not (cells and collectives.is_first()):
        return
    from filelock import FileLock

    results = cells[0].command.results
    for name in dict.fromkeys(cell.command.study for cell in cells):
        keys = [cell.key for cell in cells if cell.command.study == name]
        if {*keys} <= {*records.read_study(results, name)}:
            continue
        (results / "studies").mkdir(parents=True, exist_ok=True)
        with FileLock(results / "studies" / ".lock"):  # two commands can add to one study at the same time
            records.write_study(results, name, [*records.read_study(results, name), *keys])


# Run the cells that are not done: in this process, in child processes, or as jobs.


def run_cells(cells: Sequence[Cell], launcher: InProcess | LocalPool | Slurm, outcome: Outcome) -> None:
    """Run unfinished cells and add all cells to `outcome`. Raises InputError if a cell's input is wrong."""
    pending = [cell for cell in cells if not _is_done(cell, outcome)]
    if pending and isinstance(launcher, Slurm):
        _run_jobs(cells, pending, launcher, outcome)
        return
    prepared = _prepare(pending, outcome)
    note_study([cell for cell in cells if cell.key not in outcome.left_out])
    if not pending:
        log.info("every cell was done: %d of %d; nothing to run", len(outcome.done), len(cells))
        return
    log.info("cells: %d asked for, %d done, %d to run", len(cells), len(outcome.done), len(pending))
    _log_sizes(prepared)
    _track("start", cells)
    if isinstance(launcher, LocalPool):
        _take(launcher.run(cells[0].command.results, tasks(prepared), str(Path.cwd())), pending, outcome)
    else:
        _run_here(prepared, outcome)


def _is_done(cell: Cell, outcome: Outcome) -> bool:
    """Whether the cell is done, evaluated and healed as requested; if so, adds its result to `outcome`."""
    if (result := collectives.on_first(lambda: finished(cell))) is None:
        return False
    outcome.done[cell.key] = result
    return True


def _prepare(cells: Sequence[Cell], outcome: Outcome, in_flight: bool = False) -> list[Prepared]:
    """Draw and check the samples and data of all cells, before the first search starts.

    Raises one InputError with all invalid input, and all unreachable models and data. A cell whose search
    needs too many evaluations is left out. Raises InputError if no cell is left and no cell is done or in flight.
    """
    if not cells:
        return []
    from pruning.runs.prepare import Drawn, prepare

    drawn, ready, wrong = Drawn(), list[Prepared](), list[errors.PruningError]()
    for cell in cells:
        try:
            ready.append(prepare(cell, drawn))
        except errors.OutOfReachError as error:
            outcome.left_out[cell.key] = error
        except (errors.InputError, errors.UnreachableError) as error:
            wrong.append(error)
    if not (ready or wrong or outcome.done or in_flight):
        wrong += outcome.left_out.values()
    if wrong:
        raise errors.merged_error(wrong)
    return ready


def _run_here(prepared: Sequence[Prepared], outcome: Outcome) -> None:
    from pruning.runs.run_cell import record_failure, run

    for number, ready in enumerate(prepared, start=1):
        key = ready.cell.key
        log.info("cell %d of %d: %s", number, len(prepared), key)
        try:
            outcome.done[key] = run(ready)
            if len(prepared) > 1:
                log.info("%s", text_tables.line(outcome.done[key]))
        except errors.BusyError as error:
            log.warning("%s", error)
            outcome.busy[key] = error
        except Exception as error:
            if errors.is_fatal(error):
                raise  # no other cell could write either, and a failure could not be recorded
            outcome.failed[key] = failed = record_failure(ready.cell, error)
            log.error("cell %s failed: %s: %s", key, failed["error"]["type"], failed["error"]["message"])
            common = isinstance(error, errors.PruningError) and not isinstance(error, errors.RankError)
            if collectives.world_size() > 1 and not common:
                raise  # the ranks are out of step: collectives would hang


def _log_sizes(prepared: Sequence[Prepared]) -> None:
    chosen = dict.fromkeys(
        f"{one.count} {'items' if one.kind == 'items' else f'samples of up to {one.length} tokens'} of {one.source}"
        for one in (ready.samples for ready in prepared)
    )
    for text in chosen:
        log.info("chosen on   %s", text)
    measured = {
        f"{name} ({data.count} {'items' if data.kind == 'items' else f'windows of {data.length} tokens'})": None
        for ready in prepared
        for name, data in ready.data.items()
        if isinstance(data, Samples)
    }
    if measured:
        log.info("measured on %s", ", ".join(measured))


def _run_jobs(cells: Sequence[Cell], pending: Sequence[Cell], launcher: Slurm, outcome: Outcome) -> None:
    """Submit the cells that are not yet submitted. Unless launcher.wait=false, wait for all submitted cells.

    Raises InputError if a waiting or running job has other settings of `eval` or `heal` than this command.
    """
    results = cells[0].command.results
    with submission_lock(results):
        states, records = cell_states(results, [cell.key for cell in pending]), latest(results)
        flying = [cell for cell in pending if cell.key in states and states[cell.key].state.in_flight]
        for cell in flying:
            asked = records[cell.key].tasks[cell.key].config
            if any(not same_settings(asked.get(g), cell.config.get(g)) for g in ("eval", "heal")):
                raise errors.InputError(
                    f"the job of {cell.key} has another evaluation or healing: wait until it has ended, or end it "
                    f"with `depth-pruning status cancel {results}`."
                )
        prepared = _prepare([cell for cell in pending if cell not in flying], outcome, bool(flying))
        note_study([cell for cell in cells if cell.key not in outcome.left_out])
        counts = (len(cells), len(outcome.done), len(flying), len(prepared))
        log.info("cells: %d asked for, %d done, %d in flight, %d to submit", *counts)
        _track("start", cells)
        if prepared:
            launcher.submit(results, tasks(prepared), str(Path.cwd()))
    keys = [cell.key for cell in (*flying, *(ready.cell for ready in prepared))]
    if not launcher.wait:
        outcome.in_flight = cell_states(results, keys)
        return
    outcome.submitted = keys
    _take(settle(results, keys), pending, outcome)


def _take(ended: Mapping[str, CellState], cells: Sequence[Cell], outcome: Outcome) -> None:
    for cell in cells:
        if cell.key not in ended or _is_done(cell, outcome):
            continue
        state = ended[cell.key]
        if state.state is StateName.DONE:
            reason = (
                "a file that it reads has changed since it was submitted, or its evaluation or healing failed"
            )
            state = dataclasses.replace(state, state=StateName.FAILED, reason=reason)
        outcome.failed[cell.key] = state.failure()


# Call the tracker of a study. If it fails, only warn, because the results are in files.


def record_cells(cells: Sequence[Cell], outcome: Outcome) -> None:
    """If at least one cell is done, record all `cells` that have a result."""
    folders = [cell.folder for cell in cells if (cell.folder / NAME).exists()]
    if folders and outcome.done:
        _track("record", cells, folders)


def _track(step: str, cells: Sequence[Cell], *folders: Sequence[Path]) -> None:
    if not collectives.is_first():
        return
    try:
        getattr(cells[0].command.tracker, step)(cells[0].command.results, *folders)
    except Exception as error:
        log.warning(
            "the tracker could not %s (%s): results are safe; run `depth-pruning track RESULTS`, with "
            "tracker.uri=URI if you set it, to try again",
            step,
            error,
        )


# What the command prints at its end.


def sum_up(cells: Sequence[Cell], outcome: Outcome) -> None:
    """Print the table of finished cells, and the reasons why the other cells are not finished."""
    done = [outcome.done[cell.key] for cell in cells if cell.key in outcome.done]
    text = text_tables.page(
        "outcome.txt.jinja",
        outcome=outcome,
        count=len(cells),
        results=cells[0].command.results,
        done=text_tables.results(done) if done else "",
        failures=text_tables.failures(outcome.failed.values()),
    )
    say(text if done else f"\n{text}")


def say_how_to_resume(cells: Sequence[Cell], outcome: Outcome) -> None:
    """After Ctrl-C, print what is kept and which command resumes."""
    jobs = f"\n{len(outcome.submitted)} jobs keep running." if outcome.submitted else ""
    say(
        f"\nInterrupted: {len(outcome.done)} of {len(cells)} cells are done, and every loss computed so far is kept "
        f"in {cells[0].command.results}.{jobs}\nTo resume, run the same command again:\n    {typed_command()}"
    )
