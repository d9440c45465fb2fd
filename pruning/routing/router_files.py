"""The files of a routing study: JSON and arrays, written atomically."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, first_line
from pruning.core.storage import file_sha256
from pruning.routing.fitted_router import FittedRouter
from pruning.routing.set_scores import ItemScores

if TYPE_CHECKING:
    from pruning.models.model import LanguageModel, Model

FOLDER = "routing"  # in the results folder: a folder for each model, search and size
RECORD, ROUTER, HEAD = "routing.json", "router.json", "router.npz"
FACTS = ("settings", "revision", "n_blocks", "dtype", "weights_sha256")  # of the router's model
UNREADABLE = (
    OSError,
    TypeError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a `.npz` file atomically."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    storage.write_bytes(path, stream.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file. Raises DamagedError if it cannot be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except UNREADABLE as error:
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


def model_record(model: LanguageModel, settings: Model | None) -> dict[str, Any]:
    """What is needed to load the router's model again, and to check that it is the same.

    `settings` are None for a model in memory.
    """
    plain = None if settings is None else asdict(settings)
    if plain is not None:
        plain.pop("resources")
    info, digest = model.info, model.weights_sha256()
    facts = {"revision": info.revision, "n_blocks": info.n_blocks, "dtype": info.dtype}
    return {"settings": plain, **facts, "weights_sha256": digest}


def save_router(folder: Path, router: FittedRouter, model: Mapping[str, Any]) -> None:
    """Write `router.npz` and then `router.json`, with what is known about the model."""
    save_arrays(folder / HEAD, router.head.arrays())
    # JSON objects have no order, and the head predicts for the sets in theirs.
    bound = {"order": list(router.sets), "head_sha256": file_sha256(folder / HEAD)}
    storage.write_record(folder / ROUTER, {**router.record(), "model": dict(model), **bound})


def read_router(folder: Path) -> tuple[FittedRouter, dict[str, Any]]:
    """The router of a folder, and what is known about its model.

    Raises InputError if there is none, and DamagedError, which names the folder, if a file has another content than
    `save_router` writes.
    """
    if not (folder / ROUTER).is_file():
        raise InputError(
            f"{folder} holds no {ROUTER}: `python launch.py experiment=tasks tasks.folder=DIR` makes one."
        )
    record, arrays = storage.read_json(folder / ROUTER), read_arrays(folder / HEAD)
    try:
        if record["head_sha256"] != file_sha256(folder / HEAD):
            raise DamagedError(f"{HEAD} is of another router.")
        sets = {name: record["sets"][name] for name in record["order"]}
        if len(sets) != len(record["sets"]):
            raise DamagedError(f"order={record['order']} does not name the sets.")
        router, model = FittedRouter.of({**record, "sets": sets}, arrays), record["model"]
        lacking = [name for name in FACTS if name not in model]
        if lacking or any(mask.n_blocks != model["n_blocks"] for mask in router.sets.values()):
            raise DamagedError(f"model={model!r} does not describe the model of the sets.")
    except (DamagedError, KeyError, TypeError) as error:
        raise DamagedError(
            f"the router in {folder} is damaged ({first_line(error)}): restore {ROUTER} and {HEAD}, or fit it again."
        ) from error
    return router, model
