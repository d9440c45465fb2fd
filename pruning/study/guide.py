"""A guided run (`guide=true`) of one cell: print a forecast, run it, time its models, and print where to look."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.config.app import build, build_option
from pruning.core.errors import InputError, UnreachableError
from pruning.core.records import (
    OPTION,
    SMALLER,
    DoneResult,
    kind_of,
    metrics_among,
    without_option,
)
from pruning.core.storage import digest, read_json, write_json
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

log = logging.getLogger(__name__)

OFFLINE = "Without a network, use the text that comes with Python: calibration=pydoc heal.source=pydoc eval=heldout."
SPEED = ("eval=speed", "eval.batch_sizes=[1]", "eval.repeats=3", "eval.new_tokens=16")
PROMPT = 256  # tokens of the prompt whose speed is measured; at most half of what the model reads


def check_guided(cells: Sequence[Cell], launcher: Any, minutes: float | None) -> Cell:
    """The one cell of a guided run, with a directory for its model: `smaller` in its folder if none is given.

    Raises InputError if there are several cells, if the launcher is not `local`, or if `minutes` is 0 or less.
    """
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
    return cell if cell.export is not None else dataclasses.replace(cell, export=cell.folder / SMALLER)


PLANS = "plans"  # the folder of decided settings, so that a repeated command continues with the same ones


def planned(cell: Cell, minutes: float | None) -> Cell:
    """The cell with the settings that are decided for it; prints a forecast. If there is an earlier plan, it is used.

    Raises the errors of `prepare` and of `forecast.decided` before anything expensive starts.
    """
    from pruning.evaluation.speed import machine
    from pruning.healing.heal_settings import NoHealing
    from pruning.runs import forecast
    from pruning.runs.prepare import prepare

    asked, path = cell, cell.results / PLANS / f"{digest([cell.key, cell.config.get('heal'), minutes])}.json"
    if path.exists():
        plan = read_json(path)
        for group, settings in plan.items():
            if settings is not None:
                built = build(group, without_option(settings))
                cell = forecast.with_settings(cell, group, built, settings[OPTION])
            elif cell.heal.trains:
                cell = forecast.with_settings(cell, "heal", NoHealing(), "none")
        cell = _at_home(cell, asked)
    timed = speed_cell(cell)
    if (done := finished(cell)) is not None and "speed" in done["evaluation"]:
        return cell
    try:
        prepared = prepare(cell)
    except UnreachableError as error:
        raise InputError(f"{error} {OFFLINE}") from error
    log.info("measuring this machine")
    measured, said = forecast.Machine(prepared), list[str]()
    speed = cast("Speed", timed.evaluation)
    if path.exists():
        training = measured.training(cell.heal) if cell.heal.trains else None
    else:
        cell, training, said = forecast.decided(prepared, measured, speed, minutes)
        cell = _at_home(cell, asked)
        write_json(path, {group: cell.config.get(group) for group in ("heal", "calibration", "eval")})
        prepared = prepare(cell) if said else prepared
    found = measured.forecast(prepared, training, speed, export=True)
    parts = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in found.parts.items())
    say(
        f"takes    about {duration_text(found.seconds)} on {machine()}: {parts}\n"
        f"memory   about {bytes_text(found.memory)} of {bytes_text(found.available)}\n"
        + "".join(f"decided  {line}\n" for line in said)
        + f"writes   {cell.export}\n"
        "It can be stopped at any moment; the same command continues."
    )
    if found.memory > found.available:
        log.warning(
            "this may not fit into memory: lower calibration.samples or, if it trains, heal.micro_tokens"
        )
    return cell


def _at_home(cell: Cell, asked: Cell) -> Cell:
    """The decided cell. If `asked` exports its model into its own folder, so does the decided cell."""
    return (
        dataclasses.replace(cell, export=cell.folder / SMALLER)
        if asked.export == asked.folder / SMALLER
        else cell
    )


def say_result(result: DoneResult, results: Path) -> None:
    """Print the table of a cell's models, how the last differs from the dense one, and how certain the mask is."""
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
    """Print the paths of the model's card and of its cell, and the command that shows the results."""
    assert cell.export is not None
    folder, here = cell.results, Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    say(f"card    {cell.export / 'README.md'}\ncell    {cell.folder}\nlook    depth-pruning ui {shown}")


def speed_cell(cell: Cell) -> Cell:
    """The cell with an evaluation of its speed, for a prompt that the model can read.

    The new cell is not healed: training does not change the number of weights, so speed does not depend on it.
    """
    from pruning.healing.heal_settings import NoHealing
    from pruning.runs.forecast import with_settings

    timed = with_settings(cell, "eval", usual_speed(cell.model.context_length), "speed")
    return with_settings(timed, "heal", NoHealing(), "none") if cell.heal.trains else timed


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

    If the healed model has another mask than the search chose, its row names it; the row also says if training did
    not help. Repair and training do not change the number of weights, so all smaller models have the speed and the
    size of the pruned one.
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
