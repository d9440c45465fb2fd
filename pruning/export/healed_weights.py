"""Put the healed weights of a cell into an export: into the model that proves it, and into the stored tensors.

The weights have the names of the dense model in memory. A checkpoint can store them under other names and in other
shapes, such as one tensor per expert. So transformers converts them back, and each must be found in the checkpoint;
otherwise the export is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.export.plan import Cut
from pruning.export.shard_writer import Plan
from pruning.export.stored_weights import by_tail, converted_back
from pruning.export.tensor_reader import Tensors
from pruning.healing.files import read_weights
from pruning.models.block_probe import find_blocks

Change = Callable[[int, str, Tensor], Tensor]


def load_healed(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The healed weights of a cell's folder. Raises DamagedError if they are not those of the record."""
    return read_weights(folder / record["folder"], record)


def apply_healed(model: Any, healed: Mapping[str, Tensor], plan: Plan) -> None:
    """Replace weights of the dense model by healed ones, rounded as in the export.

    Raises InputError if a weight does not fit.
    """
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in healed.items():
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(f"the healed weights do not fit the model: there is no weight like {name}.")
            weights[name].copy_(tensor.to(plan.precision(name, tensor.dtype)))


def with_healed(cut: Cut, model: Any, healed: Mapping[str, Tensor], tensors: Tensors) -> Cut:
    """The cut that writes healed tensors in place of the stored ones, before any other change of the cut.

    `model` is the dense model. Raises InputError if a healed weight is not found in the checkpoint.
    """
    stored = {found for name in tensors.shapes() if (found := cut.plan.block_and_tail(name)) is not None}
    replaced = _by_place(model, healed, stored)
    change = cut.plan.change

    def healed_first(block: int, tail: str, tensor: Tensor) -> Tensor:
        new = replaced.get((block, tail), tensor)
        return new if change is None else change(block, tail, new)

    return replace(cut, plan=replace(cut.plan, change=healed_first))


def _by_place(
    model: Any, healed: Mapping[str, Tensor], stored: set[tuple[int, str]]
) -> dict[tuple[int, str], Tensor]:
    """The healed tensors as the checkpoint stores them, by block and rest of the name."""
    path, found = find_blocks(model).path, dict[tuple[int, str], Tensor]()
    for block in sorted({int(name[len(path) + 1 :].partition(".")[0]) for name in healed}):
        prefix = f"{path}.{block}."
        own = {name: tensor for name, tensor in healed.items() if name.startswith(prefix)}
        tails = by_tail(prefix, own)
        if not {(block, tail) for tail in tails} <= stored:
            tails = by_tail(prefix, converted_back(model, own))
        if missing := sorted(tail for tail in tails if (block, tail) not in stored):
            raise InputError(
                f"the healed weight {missing[0]} of block {block} is not found in the checkpoint: save the model "
                "anew with `save_pretrained`, and search and heal that one."
            )
        found |= {(block, tail): tensor for tail, tensor in tails.items()}
    return found
