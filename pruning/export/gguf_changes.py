"""Change the values of a few tensors while a GGUF file is cut: zeros for removed parts, and folded compensations.

Zero bytes are zero weights in every type of the format, because each group of quantised weights is multiplied by
scales. Other values are written only into floating-point tensors; quantised ones are refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.export.fold_scales import plan_fold
from pruning.export.gguf_names import WeightNames
from pruning.export.verify import TOLERANCE
from pruning.gguf.container import Stored
from pruning.gguf.cut import Change
from pruning.gguf.floats import decoded, dtype_of, encoded
from pruning.models.block_probe import find_blocks
from pruning.models.output_weights import output_weights
from pruning.models.repaired_weights import Repair, folded_weights
from pruning.models.units import find_chain


@dataclass(frozen=True)
class Changes:
    """Changes to the bytes of tensors, by their names in the file.

    `weights` are the values that the changed file gives to weights of the model, by name. `tolerance` is the largest
    relative difference of the logits, and `idle` counts the parameters of parts that became zeros.
    """

    tensors: Mapping[str, Change] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    tolerance: float = 0.0
    idle: int = 0


def zeros(names: WeightNames, model: Any, removed: Sequence[int]) -> Changes:
    """Zeros for the last weights of removed sub-layers whose block stays; unit 2i is the attention of block i.

    Raises UnskippableError if a sub-layer cannot be switched off by weights, InputError if the file lacks a weight.
    """
    path, found = find_blocks(model).path, output_weights(model, removed)
    tensors = {
        names.tensor(f"{path}.{unit // 2}.{name}").name: np.zeros_like
        for unit in removed
        for name in found[unit]
    }
    sizes = find_chain(model, "sublayer").sizes()
    return Changes(tensors, idle=sum(sizes[unit] for unit in removed))


def scaled(names: WeightNames, model: Any, mask: Mask, scales: Sequence[float]) -> Changes:
    """The factors of removed blocks, folded into the blocks after them (`fold_scales.py`).

    Raises InputError if the architecture does not allow that, or if a tensor to scale is quantised.
    """
    path, order = f"{find_blocks(model).path}.", names.file.order
    weights = dict(model.named_parameters())
    parts = {name: name.removeprefix(path).partition(".") for name in weights if name.startswith(path)}
    inside = {name: (int(block), tail) for name, (block, _, tail) in parts.items()}
    fold = plan_fold(model.config, inside.values(), [n for n in weights if n not in inside], mask, scales)
    tensors: dict[str, Change] = {}
    tolerance = 0.0
    for name, place in inside.items():
        if (factor := fold.factor(*place)) != 1.0:
            tensor = names.tensor(name)
            names.layout(name, weights[name])  # so the factor reaches the weight, or 1 + the weight of a norm
            tensors[tensor.name] = _times(tensor, order, factor)
            tolerance = max(tolerance, TOLERANCE[dtype_of(tensor)])
    return Changes(tensors, tolerance=tolerance)


def repaired(names: WeightNames, model: Any, repair: Repair) -> Changes:
    """The maps of a repair, folded into weights (`models/repaired_weights.py`); equal bit for bit after loading.

    Raises InputError if a map cannot be folded, or if a tensor to change is quantised.
    """
    order, own = names.file.order, dict(model.named_parameters())

    def precision(name: str, _: torch.dtype) -> torch.dtype:
        return dtype_of(names.tensor(name))

    tensors: dict[str, Change] = {}
    weights = {}
    for name, values in folded_weights(model, repair, precision).items():
        tensor, layout = names.tensor(name), names.layout(name, own[name])
        data = encoded(layout.stored(values.cpu().float()), tensor, order)
        tensors[tensor.name] = _constant(data)
        weights[name] = layout.weight(decoded(tensor, order, data)).to(own[name])
    return Changes(tensors, weights)


def _constant(data: Any) -> Change:
    return lambda _: data


def _times(tensor: Stored, order: str, factor: float) -> Change:
    """The product is computed when the tensor is written, so that one tensor is in memory at a time."""
    return lambda data: encoded(decoded(tensor, order, data).float() * factor, tensor, order)
