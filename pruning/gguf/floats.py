"""The values of tensors that are stored as floating-point numbers: F32, F16 and BF16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.core.errors import InputError
from pruning.gguf.container import Stored

if TYPE_CHECKING:
    import torch

DTYPES = {0: "float32", 1: "float16", 30: "bfloat16"}  # by the number of the type in the format


def dtype_of(tensor: Stored) -> torch.dtype:
    """The precision of a tensor. Raises InputError if it is quantised."""
    import torch

    if tensor.kind not in DTYPES:
        raise InputError(
            f"{tensor.name} is quantised ({tensor.kind_name}), so nothing can be folded into it without quantising "
            "it anew: cut a GGUF file in F32 or F16 and quantise the result with llama.cpp's llama-quantize; or "
            "search with compensation=none."
        )
    found: torch.dtype = getattr(torch, DTYPES[tensor.kind])
    return found


def decoded(tensor: Stored, order: str, data: Any = None) -> torch.Tensor:
    """The values of a tensor, or of other bytes of its size: a copy in its precision, the slowest axis first.

    `order` is the byte order of the file, `<` or `>`. Raises InputError if the tensor is quantised.
    """
    import torch

    dtype = dtype_of(tensor)
    raw = np.frombuffer(bytes(tensor.data if data is None else data), f"{order}i{dtype.itemsize}")
    values = torch.from_numpy(raw.astype(f"i{dtype.itemsize}")).view(dtype)
    return values.reshape(tensor.shape[::-1])


def encoded(values: torch.Tensor, tensor: Stored, order: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Values as the bytes of a tensor, rounded to its precision. Raises InputError if a value becomes infinite."""
    import torch

    rounded = values.to(dtype_of(tensor)).contiguous()
    if not bool(torch.isfinite(rounded).all()):
        raise InputError(
            f"{tensor.name} would hold values that {tensor.kind_name} cannot represent: cut a GGUF file in F32."
        )
    whole = torch.int32 if rounded.dtype.itemsize == 4 else torch.int16
    raw = rounded.reshape(-1).view(whole).numpy().astype(f"{order}i{rounded.dtype.itemsize}")
    return np.frombuffer(raw.tobytes(), np.uint8)
