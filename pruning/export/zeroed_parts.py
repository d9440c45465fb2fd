"""Switch off sub-layers in a checkpoint: their output weights become zeros, and the file keeps its size.

No standard architecture has blocks without attention or MLP, so a checkpoint that everybody can load keeps both parts
of a block. The weights are found in the model in memory (`models/output_weights.py`). A checkpoint can store them
under other names and in other shapes, such as one tensor per expert. So the blocks of the model are converted back by
transformers, and the stored tensors must be found again with the same values; otherwise the export is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export.plan import Cut
from pruning.export.shard_writer import Plan
from pruning.export.tensor_reader import Tensors
from pruning.models.block_probe import find_blocks
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
        found |= {(block, tail) for tail in _stored(cut.plan, model, block, weights, tensors)}
    sizes = find_chain(model, "sublayer").sizes()
    zeros = Zeros(frozenset(found))
    return replace(cut, plan=replace(cut.plan, change=zeros), idle=sum(sizes[unit] for unit in removed))


def _stored(plan: Plan, model: Any, block: int, weights: Sequence[str], tensors: Tensors) -> set[str]:
    """The rest of the names of a block's stored tensors that hold some weights of the model and nothing else."""
    path = f"{find_blocks(model).path}.{block}."
    values = {name: weight for name, weight in model.named_parameters() if name.startswith(path)}
    marks = {name: torch.full_like(value, name[len(path) :] not in weights) for name, value in values.items()}
    names = {tail: name for name in tensors.shapes() if (tail := _tail(plan, block, name)) is not None}
    reasons = []
    for convert in (converted_back, lambda _, state: state):
        converted, marked = (by_tail(path, convert(model, state)) for state in (values, marks))
        reason = _why_not(plan, converted, marked, names, tensors)
        if reason is None:
            return {tail for tail, mark in marked.items() if not mark.any()}
        reasons.append(reason)
    raise InputError(
        f"the output weights of a part of block {block} ({', '.join(weights)}) are not found in the checkpoint: "
        f"{reasons[0]}. Remove whole blocks (unit=block), or save the model anew with `save_pretrained`."
    )


def converted_back(model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of a model under the names and in the shapes in which transformers would save them."""
    from transformers.core_model_loading import revert_weight_conversion

    converted: Mapping[str, Tensor] = revert_weight_conversion(model, dict(state))
    return converted


def _tail(plan: Plan, block: int, name: str) -> str | None:
    found = plan.block_and_tail(name)
    return found[1] if found is not None and found[0] == block else None


def by_tail(path: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the rest of their names after the block's number; `path` is that of the block in the model."""
    list_name, number = path.split(".")[-3:-1]
    found = {}
    for name, tensor in state.items():
        if match := re.match(rf"(?:[^.\d][^.]*\.)*?{re.escape(list_name)}\.{number}\.(.*)", name):
            found[match[1]] = tensor
    return found


def _why_not(
    plan: Plan,
    converted: Mapping[str, Tensor],
    marked: Mapping[str, Tensor],
    names: Mapping[str, str],
    tensors: Tensors,
) -> str | None:
    """Why it is not certain which stored tensors hold the marked weights; None if it is certain."""
    zeros = [tail for tail, mark in marked.items() if not mark.any()]
    if not zeros:
        return "no stored tensor holds them"
    for tail, mark in marked.items():
        if tail not in names:
            return f"there is no tensor of a name like {tail}"
        if mark.any() and not mark.all():
            return f"{tail} holds other weights as well"
    for tail in zeros:
        stored = tensors.read(names[tail])
        precise = stored.to(plan.precision(names[tail], stored.dtype))
        value = converted[tail].cpu()
        if precise.shape != value.shape or not torch.equal(precise.to(value.dtype), value):
            return f"{names[tail]} holds other values than the model"
    return None
