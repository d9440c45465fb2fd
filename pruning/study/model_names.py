"""Give the models of a command, if they are in directories, names that tell them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pruning.core.errors import InputError
from pruning.models.model_name import directory_name, distinct_names
from pruning.runs.cell import Cell


def named_apart(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, in which different directories have different names.

    If directories with the same last part meet in one command, more parts of their paths make the names. Raises
    InputError if the user has given one name to several directories.
    """
    places: dict[str, dict[Path, None]] = {}
    for cell in cells:
        if cell.model.in_directory:
            places.setdefault(cell.model.name, {})[cell.model.location] = None
    names: dict[Path, str] = {}
    for name, several in places.items():
        if len(several) > 1:
            _check_derived(name, list(several))
            names |= dict(zip(several, distinct_names(list(several)), strict=True))
    return [
        _renamed(cell, names[cell.model.location])
        if cell.model.in_directory and cell.model.location in names
        else cell
        for cell in cells
    ]


def _check_derived(name: str, places: Sequence[Path]) -> None:
    if any(directory_name(place) != name for place in places):
        raise InputError(
            f"model.name={name} names {len(places)} different models ({', '.join(map(str, places))}): leave "
            "model.name out, so that each is named after its directory."
        )


def _renamed(cell: Cell, name: str) -> Cell:
    model = dataclasses.replace(cell.model, name=name)
    return dataclasses.replace(
        cell, model=model, config={**cell.config, "model": {**cell.config["model"], "name": name}}
    )
