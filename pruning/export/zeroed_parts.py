"""Switch off sub-layers in a checkpoint: their output weights become zeros, and the file keeps its size.

No standard architecture has blocks without attention or MLP, so a checkpoint that everybody can load keeps both parts
of a block. The weights are found in the model in memory (`models/output_weights.py`), and then in the checkpoint
(`stored_weights.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.export.plan import Cut
from pruning.export.stored_weights import stored_weights
from pruning.export.tensor_reader import Tensors
from pruning.models.output_weights import output_weights
from pruning.models.units import find_chain


@dataclass(frozen=True)
class Zeros:
    """The stored tensors that become zeros, as (block, rest of the name); `block` counts the dense model's blocks."""

    tensors: frozenset[tuple[int, str]]

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """The tensor to write for a block's tensor."""
        return torch.zeros_like(tensor) if (block, tail) in self.tensors else tensor


def parts(mask: Mask) -> tuple[int, ...]:
    """The removed sub-layers whose block keeps the other one; empty if a mask removes whole blocks."""
    if mask.unit == "block":
        return ()
    return tuple(unit for unit in mask.dropped if unit // 2 not in mask.gone)


def with_zeros(cut: Cut, mask: Mask, model: Any, tensors: Tensors) -> Cut:
    """The cut in which the parts of blocks that a mask removes are zeros; unchanged if it removes whole blocks.

    `model` is the dense model, with weights rounded as in the export. Raises UnskippableError if the sub-layers or
    their output weights cannot be found, and InputError if the stored tensors are not certain.
    """
    if not (removed := parts(mask)):
        return cut
    names = output_weights(model, removed)
    found: set[tuple[int, str]] = set()
    for block in sorted({unit // 2 for unit in removed}):
        weights = [name for unit in removed if unit // 2 == block for name in names[unit]]
        found |= {(block, tail) for tail in stored_weights(cut.plan, model, block, weights, tensors).tails}
    sizes = find_chain(model, "sublayer").sizes()
    zeros = Zeros(frozenset(found))
    return replace(cut, plan=replace(cut.plan, change=zeros), idle=sum(sizes[unit] for unit in removed))
