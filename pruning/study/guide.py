"""A guided run (`guide=true`) of one cell: say what it will take, run it, time its models, and say where to look."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pruning.core.errors import InputError, UnreachableError
from pruning.core.recorded import OPTION, recorded
from pruning.core.result import SMALLER, DoneResult
from pruning.core.units import bytes_text, duration_text
from pruning.launcher.local import InProcess
from pruning.runs.cell import Cell
from pruning.study import stages
from pruning.study.outcome import Outcome, say
from pruning.study.run_cells import run_cells

if TYPE_CHECKING:
    from pruning.evaluation.speed import Speed
    from pruning.runs.forecast import Forecast

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


def run_guided(cell: Cell, launcher: Any, outcome: Outcome) -> None:
    """Print the forecast, run the cell, and then measure how fast its models are.

    Raises the errors of `prepare` and of `forecast` before anything expensive starts.
    """
    from pruning.launcher.cell_state import finished

    timed = _speed_cell(cell)
    done = finished(cell)
    if done is None or "speed" not in done["evaluation"]:
        say_forecast(cell, timed)
    run_cells([cell], launcher, outcome)
    if cell.key in outcome.done and "speed" not in outcome.done[cell.key]["evaluation"]:
        run_cells([timed], launcher, second := Outcome())
        run_cells([cell], launcher, outcome)  # so that the result names the settings that were asked for
        outcome.failed |= second.failed


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
    _warn(cell, found)


def say_result(result: DoneResult) -> None:
    """Print the table of a cell's models, before its export."""
    name = result["model"]["name"]
    say(f"\n{name} without {' '.join(map(str, result['mask']['dropped']))}\n\n{stages.table(result)}")


def say_where(cell: Cell) -> None:
    """Print where the model's card and the files of its cell are, and how to look at them."""
    assert cell.export is not None
    say(
        f"card    {cell.export / 'README.md'}\n"
        f"cell    {cell.folder}\n"
        f"look    python -m pruning.ui {_shown(cell.results)}"
    )


def _warn(cell: Cell, found: Forecast) -> None:
    if found.memory > found.available:
        log.warning(
            "this may not fit into memory: lower heal.micro_tokens (%s), or train adapters with heal=lora "
            "(pip install peft), or leave the training out with heal=none",
            getattr(cell.heal, "micro_tokens", "-"),
        )


def _speed_cell(cell: Cell) -> Cell:
    """The same cell with an evaluation of its speed, for a prompt that the model can read.

    It asks for no healing: training changes weights and not their number, so the speed does not depend on it.
    """
    from omegaconf import OmegaConf

    from pruning.hydra_app.build_option import build_option
    from pruning.hydra_app.replay_command import composed
    from pruning.models import loader

    most = loader.context_length(cell.model) or 2 * PROMPT
    words = [*SPEED, f"eval.prompts=[{min(PROMPT, most // 2)}]", "heal=none"]
    made = composed(words)
    settings = {
        group: {OPTION: option, **recorded(OmegaConf.to_container(made[group], resolve=True))}
        for group, option in (("eval", "speed"), ("heal", "none"))
    }
    return dataclasses.replace(
        cell,
        evaluation=build_option("eval", words),
        heal=build_option("heal", words),
        config={**cell.config, **settings},
    )


def _shown(folder: Path) -> Path:
    """A folder relative to the current one, if it is in it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
