"""Heal the mask of a finished cell: train the pruned model, and measure it with the cell's evaluation.

depth-pruning heal CELL heal=lora heal.tokens=200000

CELL is the folder of a finished cell. Settings are those of `heal` in a grid, listed below; the default is heal=lora.
Because a folder can come from somebody else, the settings of `tracker` in its record are not used: give them
to this command. A command that was stopped continues if it is given again. Training runs of one cell with
different budgets share their first steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pruning.config.compose import cell_of_words, recorded_cell
from pruning.config.words import check_line, names_folder
from pruning.core.errors import InputError
from pruning.core.records import NAME, read_done
from pruning.core.terminal import FAILED, command_words
from pruning.launcher import InProcess
from pruning.runs.cell import Cell
from pruning.runs.prepare import check_cell
from pruning.study.command import Outcome, joined_ranks, record_cells, run_cells, run_checks, sum_up

ALLOWED = tuple(f"{name}{end}" for name in ("heal", "tracker") for end in "=.")


def main() -> None:
    """The command `depth-pruning heal`."""
    with joined_ranks():
        heal_folder(cell_of(command_words()))


def heal_folder(cell: Cell) -> None:
    """Heal a finished cell, record it with its tracker, and print its table row."""
    run_checks([partial(check_cell, cell)])
    run_cells([cell], InProcess(), outcome := Outcome())
    record_cells([cell], outcome)
    sum_up([cell], outcome)
    if outcome.failed:
        raise SystemExit(FAILED)


def cell_of(words: Sequence[str]) -> Cell:
    """The finished cell named on the command line, with the requested settings of healing.

    Raises InputError for a wrong setting or a renamed folder, and DamagedError if there is no finished cell.
    """
    check_line(words, places=True)
    folders = [word for word in words if names_folder(word)]
    settings = [word for word in words if not names_folder(word)]
    if len(folders) != 1:
        raise InputError(f"{len(folders)} folders are given: give the folder of one finished cell.")
    if other := [word for word in settings if not word.startswith(ALLOWED)]:
        raise InputError(f"{other[0]} is not a setting of heal: give heal=OPTION or heal.SETTING=VALUE.")
    folder = Path(folders[0]).expanduser().resolve()
    result = read_done(folder)
    option = next((word for word in settings if word.startswith("heal=")), "heal=lora")
    asked = cell_of_words(list(dict.fromkeys([option, *settings])))
    if not asked.heal.trains:
        raise InputError(f"{option} does not train: choose lora, full or distill.")
    config = {**result["config"], **{name: asked.config[name] for name in ("heal", "tracker")}}
    config |= {"export": None, "paths": {"results": str(folder.parent)}}
    cell = recorded_cell(config)
    if cell.key != folder.name:
        raise InputError(
            f"{folder} is not the folder of the cell that its {NAME} describes ({cell.key}): the model or a file has "
            "changed since, or the folder was renamed."
        )
    return cell
