"""Find the tensor of a GGUF file that holds a weight of the model, and how its values are laid out there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.gguf.container import GgufFile, Stored
from pruning.gguf.floats import decoded

SAFER = "Remove whole blocks without compensation, or export a directory (out=DIR) and convert that."


@dataclass(frozen=True)
class Layout:
    """How a file stores a weight: as it is, transposed, or (norms of Gemma) with 1 added."""

    transposed: bool = False
    offset: float = 0.0

    def stored(self, weight: Tensor) -> Tensor:
        """The values that the file stores for a weight."""
        return (weight.T if self.transposed else weight) + self.offset

    def weight(self, stored: Tensor) -> Tensor:
        """The weight that transformers makes of stored values, in float32."""
        values = stored.float() - self.offset if self.offset else stored.float()
        return values.T.contiguous() if self.transposed and values.dim() == 2 else values


@dataclass(frozen=True)
class WeightNames:
    """The tensors of a GGUF file by the names of the model's weights in transformers."""

    file: GgufFile

    @cached_property
    def _map(self) -> Any:
        import gguf

        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        return gguf.get_tensor_name_map(kinds[self.file.architecture], self.file.n_blocks)

    def tensor(self, name: str) -> Stored:
        """The tensor for the weight `name`. Raises InputError if there is none."""
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias")) or ""
        tensor = self.file.tensor(found) or self.file.tensor(f"{found}.weight")
        if tensor is None:
            raise InputError(f"{self.file.path}: no tensor is found for the weight {name}. {SAFER}")
        return tensor

    def layout(self, name: str, weight: Tensor) -> Layout:
        """How the file stores a weight, found by comparing all values; `weight` is the model's, in float32.

        Raises InputError if the tensor is quantised, or if its values are none of the known layouts.
        """
        tensor = self.tensor(name)
        stored = decoded(tensor, self.file.order)
        for layout in (Layout(), Layout(transposed=True), Layout(offset=1.0)):
            values = layout.weight(stored)
            if values.shape == weight.shape and torch.equal(values, weight.detach().float().cpu()):
                return layout
        raise InputError(f"{self.file.path}: {tensor.name} does not hold the values of {name}. {SAFER}")
