"""The cells of a command: told apart, put in order, and noted down as what a study asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pruning import files, ranks
from pruning.cell import Cell
from pruning.errors import InputError, PruningError, together

# A composed configuration, and the options that Hydra chose for its groups.
Composed: TypeAlias = tuple[Any, Mapping[str, Any]]


def distinct(configs: Sequence[Composed]) -> list[Cell]:
    """The cells of composed configurations, each once, those of one model together.

    Raises InputError, which names everything that is wrong with them.
    """
    from pruning.composition import cell_of

    cells: list[Cell] = collect([partial(cell_of, *config) for config in configs])
    if not cells:
        raise InputError("no cell is asked for: one of the values that were to be swept over is empty.")
    found: dict[str, Cell] = {}
    for cell in cells:
        same = found.setdefault(cell.key, cell)
        if other := [name for name in cell.config if cell.config[name] != same.config[name]]:
            raise InputError(
                f"two cells differ in {', '.join(other)} only, which makes no other cell: {cell.key}. "
                "Give each value in a command of its own."
            )
    if len({cell.results for cell in cells}) > 1:
        raise InputError("paths.results differs between cells: give each folder in a command of its own.")
    # Cells of one model stand together, so that it is loaded once.
    order = {model: number for number, model in enumerate(dict.fromkeys(cell.model for cell in cells))}
    return sorted(found.values(), key=lambda cell: order[cell.model])


def collect(steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """The values of all steps, or one InputError that holds all that is wrong."""
    values, errors = [], []
    for step in steps:
        try:
            values.append(step())
        except PruningError as error:
            errors.append(error)
    if errors:
        raise together(errors)
    return values


def remember(cells: Sequence[Cell]) -> None:
    """Note which cells a study asks for, so that a figure can tell a missing cell from none."""
    if not (cells and ranks.is_first()):
        return
    from filelock import FileLock

    folder = cells[0].results / "studies"
    for name in dict.fromkeys(cell.study for cell in cells):
        path, keys = folder / f"{name}.json", [cell.key for cell in cells if cell.study == name]
        if {*keys} <= {*_listed(path)}:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # two commands of one study may add to its list at the same time
            files.write_json(path, {"study": name, "cells": list(dict.fromkeys([*_listed(path), *keys]))})


def _listed(path: Path) -> list[str]:
    return list(files.read_json(path)["cells"]) if path.exists() else []
