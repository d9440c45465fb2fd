"""The files of a routing study: JSON and arrays, written atomically."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.items import check_template
from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, PruningError, first_line
from pruning.core.mask import Mask, whole_numbers
from pruning.core.storage import file_sha256
from pruning.routing.fitted_router import FittedRouter, Head, Ridge, first_blocks
from pruning.routing.router_settings import RouterSettings

if TYPE_CHECKING:
    from pruning.models.handle import Model
    from pruning.models.placement import LanguageModel

FOLDER = "routing"  # in the results folder: a folder for each model, search and size
RECORD, ROUTER, HEAD = "routing.json", "router.json", "router.npz"
PARTS = ("common", "relative")  # of the head
FITTED = [field.name for field in fields(Ridge)]
FACTS = ("settings", "revision", "n_blocks", "dtype", "weights_sha256")  # of the router's model
# What numpy raises for a file that is not what it wrote.
UNREADABLE: tuple[type[Exception], ...] = (OSError, TypeError, ValueError, EOFError, KeyError)
UNREADABLE = (*UNREADABLE, NotImplementedError, zipfile.BadZipFile, zlib.error)


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
        "settings": asdict(router.settings),
        "model": dict(model),
        "order": list(router.sets),  # of the head's outputs: JSON objects have no order
        "head_sha256": file_sha256(folder / HEAD),
    }
    storage.write_record(folder / ROUTER, record)


def read_router(folder: Path) -> tuple[FittedRouter, dict[str, Any]]:
    """The router of a folder, and what is known about its model.

    Raises InputError if there is none, and DamagedError, which names the folder, if a file has another content than
    `save_router` writes.
    """
    if not (folder / ROUTER).is_file():
        raise InputError(
            f"{folder} holds no {ROUTER}: `depth-pruning grid experiment=tasks tasks.folder=DIR` makes one."
        )
    record, arrays = storage.read_json(folder / ROUTER), read_arrays(folder / HEAD)
    try:
        return _router(record, arrays, file_sha256(folder / HEAD)), record["model"]
    except (PruningError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise DamagedError(
            f"the router in {folder} is damaged ({what}): restore {ROUTER} and {HEAD}, or fit it again."
        ) from error


def _router(record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], sha256: str) -> FittedRouter:
    """The router of a record and of its head's arrays. Raises an error if something is not as it was written."""
    if record["head_sha256"] != sha256:
        raise ValueError(f"{HEAD} is of another router")
    sets = {name: Mask.from_json(record["sets"][name]) for name in record["order"]}
    if len(sets) != len(record["sets"]):
        raise ValueError(f"order={record['order']} does not name the sets")
    if len({(mask.n_blocks, mask.unit) for mask in sets.values()}) != 1:
        raise ValueError(f"sets={list(sets)} are not masks over the same units")
    settings, model = RouterSettings(**record["settings"]), record["model"]
    settings.check()
    check_template("template", record["template"])
    (blocks,) = whole_numbers([record["blocks"]])
    if blocks < 0:
        raise ValueError(f"blocks={blocks} is below 0")
    first_blocks(list(sets.values()), blocks)
    lacking = [name for name in FACTS if name not in model]
    if lacking or any(mask.n_blocks != model["n_blocks"] for mask in sets.values()):
        raise ValueError(f"model={model!r} does not describe the model of the sets")
    common, relative = (_read_part(arrays, part) for part in PARTS)
    outputs = common.bias.size, relative.bias.size
    if outputs != (1, len(sets)) or common.center.size != relative.center.size:
        raise ValueError(f"the arrays predict for {outputs[1]} sets, and there are {len(sets)}")
    head = Head(common, relative)
    return FittedRouter(sets, head, blocks, record["template"], settings)


def _read_part(arrays: Mapping[str, NDArray[Any]], part: str) -> Ridge:
    """One part of the head. Raises KeyError if something is missing, and ValueError if it does not fit."""
    for name, values in arrays.items():
        if not (np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all()):
            raise ValueError(f"{name} is not made of finite numbers")
    center, scale, weight, bias, strength = (arrays[f"{part}_{name}"] for name in FITTED)
    wanted = [(center.size,), (center.size,), (center.size, bias.size), (bias.size,)]
    if [one.shape for one in (center, scale, weight, bias)] != wanted or not scale.all():
        raise ValueError(f"the arrays of {part} do not fit each other")
    return Ridge(center, scale, weight, bias, float(strength))
