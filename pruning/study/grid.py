"""The cells of a command: find the distinct ones, order them, and record them in the study's list."""

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
from pruning.study.model_names import named_apart

# A composed configuration, and the chosen option of each Hydra group.
Composed: TypeAlias = tuple[Any, Mapping[str, Any]]


def distinct_cells(configs: Sequence[Composed]) -> list[Cell]:
    """The distinct cells of composed configurations; cells of one model are adjacent.

    Raises one InputError that lists everything that is wrong.
    """
    cells = named_apart(run_checks([partial(cell_of, *config) for config in configs]))
    if not cells:
        raise InputError("no cell is asked for: a swept setting has no values. Give it at least one.")
    run_checks([partial(getattr, cell, "key") for cell in cells])
    distinct: dict[str, Cell] = {}
    for cell in cells:
        same = distinct.setdefault(cell.key, cell)
        names = dict.fromkeys([*cell.config, *same.config])  # a group whose option is `none` can be absent
        if other := [n for n in names if not same_settings(cell.config.get(n), same.config.get(n))]:
            raise InputError(
                f"two configurations of cell {cell.key} differ only in {', '.join(other)}, which is not part of a "
                "cell's key. Run a separate command for each value."
            )
    if len({cell.results for cell in cells}) > 1:
        raise InputError("paths.results differs between cells: run a separate command for each folder.")
    # Cells of one model are adjacent, so that the model is loaded once.
    order = {model: number for number, model in enumerate(dict.fromkeys(cell.model for cell in cells))}
    return sorted(distinct.values(), key=lambda cell: order[cell.model])


def run_checks(steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """The return values of all steps. If steps fail, raises one InputError with the errors of all of these."""
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
    """Add cells to the list of their study, so that figures can report cells that are still missing."""
    if not (cells and collectives.is_first()):
        return
    from filelock import FileLock

    results = cells[0].results
    for name in dict.fromkeys(cell.study for cell in cells):
        keys = [cell.key for cell in cells if cell.study == name]
        if {*keys} <= {*study_list.read_study(results, name)}:
            continue
        (results / "studies").mkdir(parents=True, exist_ok=True)
        with FileLock(results / "studies" / ".lock"):  # two commands can add to one study at the same time
            study_list.write_study(results, name, [*study_list.read_study(results, name), *keys])
