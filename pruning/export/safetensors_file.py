"""Write a safetensors file tensor by tensor, and compute its digest meanwhile: the file is not read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.export.tensor_reader import DTYPES

NAMES = {getattr(torch, name): code for code, name in DTYPES.items()}


def write_tensors(path: Path, shapes: Mapping[str, Tensor], tensor: Callable[[str], Tensor]) -> str:
    """Write a file and return its SHA-256. One tensor is in memory at a time.

    `shapes` are tensors on the meta device, and `tensor` returns the values for a name. Raises InputError if a
    precision has no name in the format.
    """
    # The values are mapped into memory by readers, so the widest come first: then all of them are aligned.
    names = sorted(shapes, key=lambda name: -shapes[name].dtype.itemsize)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        header = _header(names, shapes)
        stream.write(header)
        digest.update(header)
        for name in names:
            values = _bytes(tensor(name))
            stream.write(values)
            digest.update(values)
    return digest.hexdigest()


def _header(names: list[str], shapes: Mapping[str, Tensor]) -> bytes:
    """The length of the table of tensors, and the table, padded to a multiple of eight bytes."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        shape = shapes[name]
        if shape.dtype not in NAMES:
            raise InputError(
                f"tensor {name} is stored in {shape.dtype}, which safetensors files cannot hold."
            )
        end = start + shape.numel() * shape.dtype.itemsize
        table[name] = {"dtype": NAMES[shape.dtype], "shape": list(shape.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    values: np.ndarray[Any, np.dtype[np.uint8]] = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return values.data
