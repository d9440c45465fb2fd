"""The files of a routing study: JSON and arrays, written atomically."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, InputError
from pruning.routing.router import FittedRouter
from pruning.routing.scores import ItemScores

FOLDER = "routing"  # in the results folder: a folder for each model, search and size
RECORD, ROUTER, HEAD = "routing.json", "router.json", "router.npz"


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a `.npz` file atomically."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    atomic_files.write_bytes(path, stream.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file. Raises DamagedError if it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is damaged ({error}): move it away and run again.") from error


def save_scores(path: Path, scores: ItemScores) -> None:
    """Write the log-likelihoods of all choices under all sets."""
    save_arrays(path, scores.arrays())


def read_scores(path: Path) -> ItemScores:
    """The inverse of `save_scores`."""
    try:
        return ItemScores(**read_arrays(path))
    except TypeError as error:
        raise DamagedError(
            f"{path} does not hold the scores of items: move it away and run again."
        ) from error


def studies_of(record: Mapping[str, Any]) -> list[str]:
    """The studies whose router a record in RECORD describes; older records name the first one only."""
    return list(record.get("studies") or ([record["study"]] if "study" in record else []))


def save_router(folder: Path, router: FittedRouter, model: Mapping[str, Any]) -> None:
    """Write `router.npz` and then `router.json`, with what is known about the model."""
    save_arrays(folder / HEAD, router.head.arrays())
    atomic_files.write_json(folder / ROUTER, {**router.record(), "model": dict(model)})


def read_router(folder: Path) -> tuple[FittedRouter, dict[str, Any]]:
    """The router of a folder, and what is known about its model. Raises InputError if there is none."""
    if not (folder / ROUTER).is_file():
        raise InputError(
            f"{folder} holds no {ROUTER}: `python launch.py experiment=tasks tasks.folder=DIR` makes one."
        )
    record = atomic_files.read_json(folder / ROUTER)
    model: Any = record.get("model") if isinstance(record, dict) else None
    if not isinstance(model, dict):
        raise DamagedError(
            f"{folder / ROUTER} is damaged (it describes no router and its model): move it away."
        )
    return FittedRouter.of(record, read_arrays(folder / HEAD)), model
