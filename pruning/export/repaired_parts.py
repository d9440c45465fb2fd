"""Write folded maps: the stored tensors of repaired sub-layers get other values (`models/repaired_weights.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pruning.export.plan import Cut
from pruning.export.stored_weights import stored_weights
from pruning.export.tensor_reader import Tensors
from pruning.models.block_probe import find_blocks


@dataclass(frozen=True)
class NewValues:
    """The values of stored tensors by (block, rest of the name); other tensors are changed by `others`, if given."""

    values: Mapping[tuple[int, str], Tensor]
    others: Callable[[int, str, Tensor], Tensor] | None

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """The tensor to write for a block's tensor."""
        if (block, tail) in self.values:
            return self.values[block, tail]
        return tensor if self.others is None else self.others(block, tail, tensor)


def with_repair(cut: Cut, weights: Mapping[str, Tensor], model: Any, tensors: Tensors) -> Cut:
    """The cut in which some weights of the model, given by name, have new values; unchanged if there are none.

    `model` is the dense model with its own weights, rounded as in the export. Raises InputError if the stored tensors
    are not certain.
    """
    if not weights:
        return cut
    path, values = f"{find_blocks(model).path}.", dict[tuple[int, str], Tensor]()
    for block in sorted({int(name.removeprefix(path).partition(".")[0]) for name in weights}):
        prefix = f"{path}{block}."
        changed = {name: value for name, value in weights.items() if name.startswith(prefix)}
        found = stored_weights(cut.plan, model, block, [n.removeprefix(prefix) for n in changed], tensors)
        values |= {(block, tail): value.cpu() for tail, value in found.values(model, changed).items()}
    return replace(cut, plan=replace(cut.plan, change=NewValues(values, cut.plan.change)))
