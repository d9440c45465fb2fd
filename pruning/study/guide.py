"""A guided run (`guide=true`) of one cell: say what it will take, run it, time its models, and say where to look."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core.errors import InputError, UnreachableError
from pruning.core.records import OPTION, SMALLER, DoneResult, kind_of, metrics_among, recorded
from pruning.core.units import bytes_text, duration_text, rate_text
from pruning.export.model_card import number
from pruning.launcher.local import InProcess
from pruning.runs.cell import Cell
from pruning.study.text_tables import about_healing, render, say, title

if TYPE_CHECKING:
    from pruning.evaluation.speed import Speed


log = logging.getLogger(__name__)

OFFLINE = "Without a network, use the text that comes with Python: calibration=pydoc heal.source=pydoc eval=heldout."
SPEED = ("eval=speed", "eval.batch_sizes=[1]")
PROMPT = 256  # tokens of the prompt whose speed is measured, or as many as the model reads


def check_guided(cells: Sequence[Cell], launcher: Any) -> Cell:
    """The one cell of a guided run, with a directory for its model: `smaller` in its folder if none is given.

    Raises InputError if there are several cells, or if they would run as jobs.
    """
    if len(cells) > 1:
        raise InputError(
            f"guide=true is for one cell, and this command asks for {len(cells)}: give one value for each setting, "
            "or guide=false."
        )
    if not isinstance(launcher, InProcess):
        raise InputError("guide=true needs launcher=local: it measures the machine that it runs on.")
    (cell,) = cells
    return cell if cell.export is not None else dataclasses.replace(cell, export=cell.folder / SMALLER)


def say_forecast(cell: Cell, timed: Cell) -> None:
    """Measure the machine for a few seconds, and print how long the cell takes, its memory, and its directory."""
    from pruning.evaluation.speed import machine
    from pruning.runs.forecast import forecast
    from pruning.runs.prepare import prepare

    try:
        prepared = prepare(cell)
    except UnreachableError as error:
        raise InputError(f"{error} {OFFLINE}") from error
    log.info("measuring this machine")
    found = forecast(prepared, cast("Speed", timed.evaluation), export=True)
    parts = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in found.parts.items())
    copy = f", {bytes_text(found.single)} of it for a float32 copy (near ties)" if found.single else ""
    say(
        f"takes    about {duration_text(found.seconds)} on {machine()}: {parts}\n"
        f"memory   about {bytes_text(found.memory)} of {bytes_text(found.available)}{copy}\n"
        f"writes   {cell.export}\n"
        "It can be stopped at any moment; the same command continues."
    )
    if found.memory > found.available:
        log.warning(
            "this may not fit into memory: lower heal.micro_tokens (%s), or train adapters with heal=lora "
            "(pip install peft), or leave the training out with heal=none",
            getattr(cell.heal, "micro_tokens", "-"),
        )


def say_result(result: DoneResult) -> None:
    """Print the table of a cell's models, before its export."""
    name = result["model"]["name"]
    say(f"\n{name} without {' '.join(map(str, result['mask']['dropped']))}\n\n{table(result)}")


def say_where(cell: Cell) -> None:
    """Print where the model's card and the files of its cell are, and how to look at them."""
    assert cell.export is not None
    folder, here = cell.results, Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    say(f"card    {cell.export / 'README.md'}\ncell    {cell.folder}\nlook    depth-pruning ui {shown}")


def speed_cell(cell: Cell) -> Cell:
    """The same cell with an evaluation of its speed, for a prompt that the model can read.

    It asks for no healing: training changes weights and not their number, so the speed does not depend on it.
    """
    from omegaconf import OmegaConf

    from pruning.config.app import build_option, composed

    most = cell.model.context_length or 2 * PROMPT
    words = [*SPEED, f"eval.prompts=[{min(PROMPT, most // 2)}]", "heal=none"]
    made, config = composed(words), dict(cell.config)
    for group, option in (("eval", "speed"), ("heal", "none")):
        config[group] = {OPTION: option, **recorded(OmegaConf.to_container(made[group], resolve=True))}
    evaluation, heal = build_option("eval", words), build_option("heal", words)
    return dataclasses.replace(cell, evaluation=evaluation, heal=heal, config=config)


# The table of one cell: its dense, pruned, repaired and healed model side by side.

SPEED_STAGE = {"prefill_per_second": "prompt tokens/s", "decode_per_second": "new tokens/s"}


def stages(result: DoneResult) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each model of a result with its metrics: `dense`, `pruned`, and `repaired` and `healed` if there are such."""
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
    """One row per model: every metric with its standard error, tokens per second, and size.

    The row of the healed model names its mask if it is not the search's, and says if training did not help. A repair
    and a healing change weights and not their number, so all smaller models have the speed and the size of the pruned
    one.
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
    return render(columns, rows, right=columns[1:])
