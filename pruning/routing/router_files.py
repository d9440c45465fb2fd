"""The files of a routing study: JSON and arrays, written atomically."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, PruningError, first_line
from pruning.core.mask import Mask
from pruning.core.storage import file_sha256
from pruning.routing.fitted_router import FittedRouter, Head, Ridge
from pruning.routing.set_scores import Floats

if TYPE_CHECKING:
    from pruning.models.handle import Model
    from pruning.models.placement import LanguageModel

FOLDER = "routing"  # in the results folder: a folder for each model, search and size
RECORD, ROUTER, HEAD = "routing.json", "router.json", "router.npz"
PARTS = ("common", "relative")  # of the head
FITTED = [field.name for field in fields(Ridge)]
# What numpy raises for a file that is not what it wrote.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


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
    arrays: dict[str, NDArray[Any]] = {}
    for part in PARTS:
        arrays |= {f"{part}_{name}": np.array(getattr(getattr(router.head, part), name)) for name in FITTED}
    save_arrays(folder / HEAD, arrays)
    record = {
        "sets": {name: mask.to_json() for name, mask in router.sets.items()},
        "blocks": router.blocks,
        "template": router.template,
        "model": dict(model),
        "order": list(router.sets),  # of the head's outputs: JSON objects have no order
        "head_sha256": file_sha256(folder / HEAD),
    }
    storage.write_record(folder / ROUTER, record)


def read_router(folder: Path) -> tuple[FittedRouter, dict[str, Any]]:
    """The router of a folder, and what is known about its model.

    Raises InputError if there is none, and DamagedError, which names the folder, if a file has another content than
    `save_router` has written.
    """
    if not (folder / ROUTER).is_file():
        raise InputError(
            f"{folder} holds no {ROUTER}: `depth-pruning grid experiment=tasks tasks.folder=DIR` makes one."
        )
    try:
        record = json.loads((folder / ROUTER).read_text(encoding="utf-8"))
        if record != storage.sealed(record) or record["head_sha256"] != file_sha256(folder / HEAD):
            raise ValueError("a file was changed after it was written")
        arrays = read_arrays(folder / HEAD)
        head = Head(*(_ridge(*(arrays[f"{part}_{name}"] for name in FITTED)) for part in PARTS))
        sets = {name: Mask.from_json(record["sets"][name]) for name in record["order"]}
        return FittedRouter(sets, head, record["blocks"], record["template"]), record["model"]
    except (PruningError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"the router in {folder} is damaged ({first_line(error)}): restore {ROUTER} and {HEAD}, or fit it again."
        ) from error


def _ridge(center: Floats, scale: Floats, weight: Floats, bias: Floats, strength: Floats) -> Ridge:
    return Ridge(center, scale, weight, bias, float(strength))
