"""The cells of a command: told apart, put in order, and noted down as what a study asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from pruning.config.compose import cell_of
from pruning.core import study_list
from pruning.core.errors import InputError, PruningError, merged_error
from pruning.core.recorded import same_settings
from pruning.distributed import collectives
from pruning.runs.cell import Cell

# A composed configuration, and the options that Hydra chose for its groups.
Composed: TypeAlias = tuple[Any, Mapping[str, Any]]


def distinct_cells(configs: Sequence[Composed]) -> list[Cell]:
    """The cells of composed configurations, each once, those of one model together.

    Raises InputError, which names everything that is wrong with them.
    """
    cells: list[Cell] = run_checks([partial(cell_of, *config) for config in configs])
    if not cells:
        raise InputError("no cell is asked for: one of the values that were to be swept over is empty.")
    found: dict[str, Cell] = {}
    for cell in cells:
        same = found.setdefault(cell.key, cell)
        if other := [n for n in cell.config if not same_settings(cell.config[n], same.config[n])]:
            raise InputError(
                f"two cells differ in {', '.join(other)} only, which makes no other cell: {cell.key}. "
                "Give each value in a command of its own."
            )
    if len({cell.results for cell in cells}) > 1:
        raise InputError("paths.results differs between cells: give each folder in a command of its own.")
    # Cells of one model stand together, so that it is loaded once.
    order = {model: number for number, model in enumerate(dict.fromkeys(cell.model for cell in cells))}
    return sorted(found.values(), key=lambda cell: order[cell.model])


def run_checks(steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """The values of all steps, or one InputError that holds all that is wrong."""
    values, errors = [], []
    for step in steps:
        try:
            values.append(step())
        except PruningError as error:
            errors.append(error)
    if errors:
        raise merged_error(errors)
    return values


def note_study(cells: Sequence[Cell]) -> None:
    """Note which cells a study asks for, so that a figure can tell a missing cell from none."""
    if not (cells and collectives.is_first()):
        return
    from filelock import FileLock

    results = cells[0].results
    for name in dict.fromkeys(cell.study for cell in cells):
        keys = [cell.key for cell in cells if cell.study == name]
        if {*keys} <= {*study_list.read_study(results, name)}:
            continue
        (results / "studies").mkdir(parents=True, exist_ok=True)
        with FileLock(
            results / "studies" / ".lock"
        ):  # two commands of one study may add to it at the same time
            study_list.write_study(results, name, [*study_list.read_study(results, name), *keys])
