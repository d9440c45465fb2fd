"""Check the files of a model directory without reading weights: the index and the headers of safetensors files.

A safetensors file starts with the size of its header (8 bytes), then the header, a JSON object that gives the type,
the shape and the place of each tensor. So the header says how many bytes the file must have.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from pruning.core.errors import InputError, first_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
OTHER_WEIGHTS = "transformers_weights"
FEW = 1000  # blocks that are built within seconds, whatever the weights are
LARGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses a larger header

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def check_files(folder: Path) -> None:
    """Raise InputError if a file of a model directory cannot be read, or if weights are missing or truncated."""
    for file in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if file.is_symlink() and not file.exists():
            if file.suffix.lower() == ".gguf":  # another of the folder's models: this one may be whole
                continue
            raise InputError(f"{file} is a link to a file that does not exist: fetch the model again.")
        if file.is_file():
            _check_readable(file)
    for file in set(
        weight_files(folder).values()
    ):  # an index can also name hidden files, and files in folders
        _check_readable(file)
    _check_config(folder, len(stored_shapes(folder)))


def _check_config(folder: Path, tensors: int) -> None:
    """Raise InputError if config.json asks for more blocks than the weights can fill, which would all be built.

    Weights of another name, which transformers would read if `transformers_weights` names them, are refused, too: the
    model's digest does not cover them.
    """
    try:
        config = _json_object((folder / CONFIG).read_bytes(), folder / CONFIG)
    except (OSError, InputError):  # whoever needs the file says so
        return
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part.get(OTHER_WEIGHTS) is not None:
            raise InputError(
                f"{folder / CONFIG} has {OTHER_WEIGHTS}={part[OTHER_WEIGHTS]!r}: only {SINGLE}, or the files that "
                f"{INDEX} names, are read. Give the weights this name, and remove the entry."
            )
        for name in BLOCK_COUNTS:
            if isinstance(count := part.get(name), int) and count > max(tensors, FEW):
                raise InputError(
                    f"{folder / CONFIG} asks for {name}={count:,}, and the weights are {tensors} tensors: use the "
                    "configuration and the weights of one model."
                )


def stored_shapes(folder: Path) -> Shapes:
    """The shape of each tensor that transformers would read from a directory; empty if it holds no safetensors.

    Raises InputError if the index names a file or a tensor that is missing, or if a file is truncated.
    """
    files = weight_files(folder)
    shapes = {name: shape for file in dict.fromkeys(files.values()) for name, shape in _header(file).items()}
    if lacking := sorted(name for name, file in files.items() if name and name not in _header(file)):
        raise InputError(
            f"{folder / INDEX} says that {files[lacking[0]].name} holds {lacking[0]}, which is not there "
            f"({len(lacking)} such tensors): fetch the model again."
        )
    return shapes


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor that the index names; without an index, the only file, under the empty name.

    Raises InputError if the index is damaged, or if a file that it names is missing.
    """
    if (folder / SINGLE).is_file():  # transformers prefers it to an index
        return {"": folder / SINGLE}
    if not (folder / INDEX).is_file():
        return {}
    where = _json_object((folder / INDEX).read_bytes(), folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{folder / INDEX} holds no `weight_map`: fetch the model again.")
    if outside := [name for name in where.values() if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise InputError(f"{folder / INDEX} names the file {outside[0]}, which is not in the folder.")
    if lacking := sorted({name for name in where.values() if not (folder / name).is_file()}):
        count = f"{len(lacking)} of {len(set(where.values()))} weight files are missing"
        raise InputError(f"model.path={folder}: {count}, for example {lacking[0]}: fetch the model again.")
    return {name: folder / file for name, file in where.items()}


def _check_readable(file: Path) -> None:
    if not os.access(file, os.R_OK):
        raise InputError(f"{file} cannot be read (permission denied): make it readable for this user.")


def _header(file: Path) -> Shapes:
    """The shape of each tensor of a safetensors file. Raises InputError if the file is damaged or truncated."""
    state = file.stat()
    return _read_header(file, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=1024)
def _read_header(file: Path, size: int, _changed: int, _inode: int) -> Shapes:
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(LARGEST_HEADER, size - 8):
            raise _truncated(file, size, "its header is incomplete")
        header = _json_object(stream.read(length), file)
    header.pop("__metadata__", None)
    try:
        tensors = list(_tensors(header))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged (its header is malformed): fetch it again.") from error
    needed = 8 + length + max((end for _, _, end in tensors), default=0)
    if size != needed:
        raise _truncated(file, size, f"its tensors need {needed:,}")
    return {name: shape for name, shape, _ in tensors}


def _tensors(header: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield the name, the shape and the end (in bytes after the header) of each tensor."""
    for name, entry in header.items():
        yield name, tuple(int(size) for size in entry["shape"]), int(entry["data_offsets"][1])


def _truncated(file: Path, size: int, why: str) -> InputError:
    return InputError(
        f"{file} is truncated or damaged: it has {size:,} bytes, and {why}. Fetch or copy it again."
    )


def _json_object(text: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file} is damaged ({first_line(error)}): fetch it again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} is damaged (it holds no JSON object): fetch it again.")
    return data
