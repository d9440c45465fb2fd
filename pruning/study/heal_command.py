"""Heal the mask of a finished cell: train the pruned model, and measure it with the cell's evaluation.

depth-pruning heal CELL heal=lora heal.tokens=200000

CELL is the folder of a finished cell. Settings are those of `heal` in a grid, listed below; the default is heal=lora.
Because a folder can come from somebody else, the settings of `tracker` that it records are not used: give them to
this command.
A command that was stopped continues if it is given again. Training runs of one cell with different budgets share
their first steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruning.config.words import names_folder
from pruning.core.errors import InputError
from pruning.core.records import NAME, OPTION, read_result, recorded
from pruning.core.terminal import command_words
from pruning.runs.cell import Cell
from pruning.study import text_tables
from pruning.study.grid import Outcome, joined_ranks, record_cells, start_tracker
from pruning.study.text_tables import say

ALLOWED = tuple(f"{name}{end}" for name in ("heal", "tracker") for end in "=.")


def main() -> None:
    """The command `depth-pruning heal`."""
    with joined_ranks():
        heal_folder(cell_of(command_words()))


def heal_folder(cell: Cell) -> None:
    """Heal a finished cell, record it with its tracker, and print its row of the table."""
    from pruning.runs.prepare import check_cell, prepare
    from pruning.runs.run_cell import run

    check_cell(cell)
    start_tracker([cell])
    result = run(prepare(cell))
    record_cells([cell], Outcome({cell.key: result}))
    say(text_tables.results([result]))
    if (record := result.get("heal")) is not None:
        say(f"\nhealed   {cell.folder / record['folder']}")


def cell_of(words: Sequence[str]) -> Cell:
    """The finished cell that a command line names, with the healing that it asks for.

    Raises InputError if a setting is wrong, or if the folder does not hold a finished cell with the folder's name.
    """
    from omegaconf import OmegaConf

    from pruning.config.app import build_option, composed
    from pruning.config.compose import recorded_cell

    folders = [word for word in words if names_folder(word)]
    settings = [word for word in words if not names_folder(word)]
    if len(folders) != 1:
        raise InputError(f"{len(folders)} folders are given: give the folder of one finished cell.")
    if other := [word for word in settings if not word.startswith(ALLOWED)]:
        raise InputError(f"{other[0]} is not a setting of heal: give heal=OPTION or heal.SETTING=VALUE.")
    folder = Path(folders[0]).expanduser().resolve()
    result = read_result(folder)
    if result is None or result["status"] != "done":
        raise InputError(f"{folder} holds no finished {NAME}: run the cell first.")
    option = next((word.partition("=")[2] for word in settings if word.startswith("heal=")), "lora")
    asked = list(dict.fromkeys([f"heal={option}", *settings]))
    if not build_option("heal", asked).trains:
        raise InputError(f"heal={option} does not train: choose lora, full or distill.")
    made = recorded(OmegaConf.to_container(composed(asked), resolve=True))
    config = {**result["config"], "heal": {OPTION: option, **made["heal"]}, "export": None}
    config |= {"tracker": made["tracker"], "paths": {"results": str(folder.parent)}}
    cell = recorded_cell(config, {})
    if cell.key != folder.name:
        raise InputError(
            f"{folder} is not the folder of the cell that its {NAME} describes ({cell.key}): the model or a file has "
            "changed since, or the folder was renamed."
        )
    return cell
