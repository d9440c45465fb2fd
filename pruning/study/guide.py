"""A guided run (`guide=true`) of one cell: print a forecast, run it, time its models, and print where to look."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.calibration.samples import Samples
from pruning.config.app import build_option
from pruning.config.compose import recorded_cell
from pruning.core import wheels
from pruning.core.errors import InputError, UnreachableError
from pruning.core.records import SMALLER, DoneResult, kind_of, metrics_among
from pruning.core.storage import check_writable, digest, read_json, write_json
from pruning.core.units import bytes_text, duration_text, rate_text
from pruning.evaluation.change import changes
from pruning.export.model_card import number
from pruning.launcher import InProcess
from pruning.launcher.cell_state import finished
from pruning.runs.cell import Cell
from pruning.search.decide import certainty
from pruning.study.text_tables import about_healing, fitted, say, title

if TYPE_CHECKING:
    from pruning.evaluation.speed import Speed
    from pruning.runs.forecast import Forecast, TrainingRates

log = logging.getLogger(__name__)

OFFLINE = "Without a network, use the text that comes with Python: calibration=pydoc heal.source=pydoc eval=heldout."
SPEED = ("eval=speed", "eval.batch_sizes=[1]", "eval.repeats=3", "eval.new_tokens=16")
PROMPT = 256  # length in tokens of the timed prompt, or half of the model's limit if that is less


def check_guided(cells: Sequence[Cell], launcher: Any, minutes: float | None) -> Cell:
    """The one cell of a guided run. By default, it exports to `smaller` in its own folder."""
    if minutes is not None and minutes <= 0:
        raise InputError(f"minutes={minutes:g} is too short: give more than 0, or null for no limit.")
    if len(cells) > 1:
        raise InputError(
            f"guide=true is for one cell, and this command asks for {len(cells)}: give one value for each setting, "
            "or guide=false."
        )
    if not isinstance(launcher, InProcess):
        raise InputError("guide=true needs launcher=local: it measures the machine that it runs on.")
    (cell,) = cells
    return cell if cell.command.export is not None else cell.under(export=cell.folder / SMALLER)


@dataclass
class Watch:
    """Measures the seconds since a command started, without downloads; `now` is the clock that it reads."""

    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started = self.now() - fetched_seconds()

    def seconds(self) -> float:
        """The seconds since the command started."""
        return self.now() - self._started - fetched_seconds()


def fetched_seconds() -> float:
    """The seconds that this process has spent on downloads."""
    return wheels.fetched


@dataclass(frozen=True)
class Plan:
    """A cell with its decided settings, and the file in which they are kept.

    `forecast` is None if nothing is left to do. `training` has the costs of the training, and `judging` is the time
    per token of a held-out loss; `measured` is how many models are evaluated. `searches` is whether the search is
    still to be run.
    """

    cell: Cell
    path: Path
    forecast: Forecast | None = None
    training: TrainingRates | None = None
    judging: float = 0.0
    measured: int = 0
    searches: bool = False

    def untrained(self) -> Cell | None:
        """The cell without its training, which is run first if the training is to fit the minutes that are left."""
        from pruning.healing.heal_settings import NoHealing
        from pruning.runs.forecast import with_settings

        if self.training is None or not self.searches:
            return None
        return with_settings(self.cell, "heal", NoHealing(), "none")

    def replanned(self, minutes: float, spent: float) -> Cell:
        """The cell with a training that fits the minutes after `spent` seconds; the search is done.

        What is left is expected to be as much slower than its forecast as what is done was.
        """
        from pruning.runs.forecast import shortened

        assert self.forecast is not None
        assert self.training is not None
        parts = self.forecast.parts
        each = parts.get("evaluation", 0.0) / self.measured
        later = each + parts.get("speed", 0.0) + parts.get("export", 0.0)
        past = sum(parts.values()) - parts.get("healing", 0.0) - later
        slower = max(1.0, spent / past)
        cell, _, change = shortened(
            self.cell, self.training, self.judging, 60 * minutes - spent - slower * later, slower
        )
        if change is not None:
            say(
                f"decided  {change}, because the search took {duration_text(spent)} and not {duration_text(past)}"
            )
            _keep(self.path, cell)
        return cell


PLANS = "plans"  # the folder of decided settings, with which a repeated command continues
DECIDED = ("heal", "calibration", "eval", "algo")  # the groups whose settings can be decided


def planned(cell: Cell, minutes: float | None, watch: Watch) -> Plan:
    """The plan of a cell; its settings are read from an earlier plan if there is one. Prints a forecast."""
    from pruning.evaluation.speed import machine
    from pruning.runs import forecast
    from pruning.runs.prepare import prepare

    asked, named = cell, digest([cell.key, cell.config.get("heal"), minutes])
    path = cell.command.results / PLANS / f"{named}.json"
    if path.exists():
        kept = {group: settings for group, settings in cell.config.items() if group not in DECIDED}
        cell = _at_home(dataclasses.replace(recorded_cell(kept | read_json(path)), model=cell.model), asked)
    if (done := finished(cell)) is not None and "speed" in done["evaluation"]:
        return Plan(cell, path)
    cell.model.check()  # an error about the model is not one about texts
    try:
        prepared = prepare(cell)
    except UnreachableError as error:
        raise InputError(f"{error} {OFFLINE}") from error
    log.info("measuring this machine")
    measured, said = forecast.Machine(prepared), list[str]()
    speed = usual_speed(cell.model.context_length)
    measured.spent = watch.seconds()
    if path.exists():
        training = measured.training(cell.heal) if cell.heal.trains else None
    else:
        cell, training, said = forecast.decided(prepared, measured, speed, minutes)
        cell = _at_home(cell, asked)
        _keep(path, cell)
        prepared = prepare(cell) if said else prepared
    found = measured.forecast(prepared, training, speed)
    parts = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in found.parts.items())
    written = sum(path.stat().st_size for path in cell.folder.rglob("*") if path.is_file())
    check_writable(cell.command.results, found.disk - written)
    later = f", {bytes_text(found.trunk)} of it only for a longer training later" if found.trunk else ""
    say(
        f"takes    about {duration_text(sum(found.parts.values()))} on {machine()}: {parts}\n"
        f"memory   about {bytes_text(found.memory)} of {bytes_text(found.available)}\n"
        f"disk     about {bytes_text(found.disk)}{later}\n"
        + "".join(f"decided  {line}\n" for line in said)
        + f"writes   {cell.command.export}\n"
        "It can be stopped at any moment; the same command continues."
    )
    if found.memory > found.available:
        log.warning("memory may not suffice: lower calibration.samples or, if it trains, heal.micro_tokens")
    searches = cell.done() is None
    return Plan(cell, path, found, training, measured.kept * measured.dense, found.measured, searches)


def _keep(path: Path, cell: Cell) -> None:
    """Write the settings that a repeated command continues with."""
    write_json(path, {group: cell.config[group] for group in DECIDED if group in cell.config})


def say_took(plan: Plan, watch: Watch) -> None:
    """Print and record the forecast of this command beside the time and the memory that it took."""
    from torch import nn

    from pruning.engine.devices import peak_memory

    if plan.forecast is None:
        return
    expected, took, memory = sum(plan.forecast.parts.values()), watch.seconds(), peak_memory(nn.Module())
    write_json(
        plan.path.with_suffix(".took.json"),
        {
            "forecast": {
                "seconds": expected,
                "memory": plan.forecast.memory,
                "parts": {**plan.forecast.parts},
            },
            "took": {"seconds": took, "memory": memory},
        },
    )
    say(
        f"took    {took / 60:.1f} min (forecast {expected / 60:.1f} min), memory {bytes_text(memory)} "
        f"(forecast {bytes_text(plan.forecast.memory)})"
    )


def _at_home(cell: Cell, asked: Cell) -> Cell:
    """The decided cell with the export directory of `asked`, or with its own default if `asked` has the default."""
    own = asked.command.export == asked.folder / SMALLER
    return cell.under(export=cell.folder / SMALLER if own else asked.command.export)


def say_result(result: DoneResult, results: Path) -> None:
    """Print a cell's models, how the last of them differs from the dense model, and how certain the mask is."""
    name = result["model"]["name"]
    say(f"\n{name} without {' '.join(map(str, result['mask']['dropped']))}\n\n{table(result)}\n")
    which, _ = [*stages(result)][-1]
    say(f"{which} against dense, on the same windows and items:")
    stage = "healed" if which == "healed" else "pruned"
    lines = {title(metric): str(change) for metric, change in changes(result, results, stage).items()}
    if "margins" in result:
        lines["choice of the blocks"] = certainty(result["margins"])
    width = max(map(len, lines))
    say("\n".join(f"  {label.ljust(width)}  {text}" for label, text in lines.items()))


def say_where(cell: Cell) -> None:
    """Print where the model's card and cell are, what may be deleted, and the command to browse results."""
    assert cell.command.export is not None
    say(f"card    {cell.command.export / 'README.md'}\ncell    {cell.folder}")
    if size := sum(path.stat().st_size for path in cell.folder.glob("healed/trunk-*/*")):
        say(f"        {cell.folder / 'healed'}/trunk-* ({bytes_text(size)}) is only for longer training")
    say(f"look    depth-pruning ui {cell.command.results}")


def timed(cell: Cell, done: DoneResult) -> DoneResult:
    """The result of a finished cell with the speed of its dense and its pruned model, measured once.

    Training does not change the number of weights, so the healed model is as fast as the pruned model.
    """
    from pruning.runs.cell import Prepared, cell_lock, save_result
    from pruning.runs.forecast import with_settings
    from pruning.runs.measurements import extended

    if "speed" in done["evaluation"]:
        return done
    asked = with_settings(cell, "eval", usual_speed(cell.model.context_length), "speed")
    data = asked.evaluation.data(cell.model.tokenizer)
    with cell_lock(cell):
        evaluation = extended(Prepared(asked, Samples("text", "", (), 0), data, None), done)
        result: DoneResult = {**done, "evaluation": evaluation}
        save_result(cell, result)
    return result


def usual_speed(most: int | None) -> Speed:
    """The evaluation of speed for models that read at most `most` tokens (None: no limit)."""
    prompt = min(PROMPT, (most or 2 * PROMPT) // 2)
    return cast("Speed", build_option("eval", [*SPEED, f"eval.prompts=[{prompt}]"]))


# The table of one cell: its dense, pruned, repaired and healed model side by side.

SPEED_STAGE = {"prefill_per_second": "prompt tokens/s", "decode_per_second": "new tokens/s"}


def stages(result: DoneResult) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each model of a result with its metrics: `dense`, `pruned` and, if they exist, `repaired`, `healed`."""
    evaluation = cast(Mapping[str, Any], result["evaluation"])
    yield "dense", evaluation["dense"]
    if "uncompensated" in evaluation:
        yield "pruned", evaluation["uncompensated"]
        yield "repaired", evaluation["pruned"]
    else:
        yield "pruned", evaluation["pruned"]
    if "healed" in evaluation:
        yield "healed", evaluation["healed"]


def table(result: DoneResult) -> str:
    """The table of a cell's models: every metric with its standard error, tokens per second, and size.

    Repair and training keep the number of weights, so all rows but the first share speed and size.
    """
    found = list(stages(result))
    names = [name for name in metrics_among(found[0][1]) if isinstance(found[0][1][name], int | float)]
    names.sort(key=lambda name: kind_of(name).startswith("acc"))
    columns, speed = ["model", *map(title, names)], result["evaluation"].get("speed")
    if speed is not None:
        columns += [*SPEED_STAGE.values(), "parameters", "size"]
    rows = []
    for which, values in found:
        row = [which + (about_healing(result) if which == "healed" else "")]
        row += [number(name, values) for name in names]
        if speed is not None:
            timed = "dense" if which == "dense" else "pruned"
            first: Any = speed["runs"][0]  # the first shape of input
            sizes: Any = speed["sizes"][timed]
            row += [rate_text(first[timed][stage]["median"]) for stage in SPEED_STAGE]
            row += [f"{sizes['parameters']:,}", bytes_text(sizes["bytes"])]
        rows.append(row)
    return fitted(columns, rows, right=columns[1:], spare=(("parameters",), [*SPEED_STAGE.values()]))
