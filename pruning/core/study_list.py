"""`studies/<name>.json`: the cells that a study asks for, so that missing cells can be found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pruning.core import atomic_files
from pruning.core.errors import DamagedError


def path_of(results: Path, study: str) -> Path:
    """The file of a study."""
    return results / "studies" / f"{study}.json"


def names(results: Path) -> list[str]:
    """The studies of a results folder, sorted."""
    return sorted(path.stem for path in (results / "studies").glob("*.json"))


def read_study(results: Path, study: str) -> list[str]:
    """The keys of the cells that a study asks for; an empty list if there is no such study.

    Raises DamagedError if the file holds no list of cells.
    """
    path = path_of(results, study)
    if not path.exists():
        return []
    try:
        data = atomic_files.read_json(path)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}).") from error
    cells = data.get("cells") if isinstance(data, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, str) and cell for cell in cells):
        raise DamagedError(
            f"{path} is damaged (it is not the list of a study): move it away, and run the study's command again."
        )
    return cells


def write_study(results: Path, study: str, cells: Iterable[str]) -> None:
    """Write the list of a study; a repeated cell is written only once."""
    atomic_files.write_json(path_of(results, study), {"study": study, "cells": list(dict.fromkeys(cells))})
