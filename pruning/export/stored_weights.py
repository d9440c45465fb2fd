"""Find the tensors of a checkpoint that hold some weights of a block of the model in memory.

A checkpoint can store weights under other names and in other shapes than the model has, such as one tensor per
expert. So the block's weights are converted back by transformers, and the stored tensors must be found again with the
same values; otherwise the export is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.export.shard_writer import Plan
from pruning.export.tensor_reader import Tensors
from pruning.models.block_probe import find_blocks

Convert = Callable[[Any, Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Stored:
    """The stored tensors of some weights, as the rest of their names after the block's number.

    `convert` turns weights of the model, by name, into tensors as they are stored.
    """

    path: str
    tails: frozenset[str]
    convert: Convert

    def values(self, model: Any, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values to store, by the rest of the name, if the weights `changed` of the model have new values."""
        state = {name: weight for name, weight in model.named_parameters() if name.startswith(self.path)}
        converted = by_tail(self.path, self.convert(model, state | dict(changed)))
        return {tail: converted[tail] for tail in self.tails}


def stored_weights(plan: Plan, model: Any, block: int, weights: Sequence[str], tensors: Tensors) -> Stored:
    """The stored tensors that hold some weights of a block, named without the block's path, and nothing else.

    Raises InputError if they are not certain.
    """
    path = f"{find_blocks(model).path}.{block}."
    values = {name: weight for name, weight in model.named_parameters() if name.startswith(path)}
    marks = {name: torch.full_like(value, name[len(path) :] not in weights) for name, value in values.items()}
    names = {tail: name for name in tensors.shapes() if (tail := _tail(plan, block, name)) is not None}
    reasons = []
    for convert in (converted_back, _unchanged):
        converted, marked = (by_tail(path, convert(model, state)) for state in (values, marks))
        reason = _why_not(plan, converted, marked, names, tensors)
        if reason is None:
            return Stored(path, frozenset(t for t, mark in marked.items() if not mark.any()), convert)
        reasons.append(reason)
    raise InputError(
        f"the output weights of a part of block {block} ({', '.join(weights)}) are not found in the checkpoint: "
        f"{reasons[0]}. Remove whole blocks (unit=block), or save the model anew with `save_pretrained`."
    )


def _unchanged(_model: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return state


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
