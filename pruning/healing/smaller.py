"""The smaller model as a model of its own: its blocks are copies, all other weights are the dense model's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.models.block_probe import find_blocks
from pruning.models.loader import LanguageModel
from pruning.models.physical_removal import blocks_removed, smaller_config
from pruning.models.repaired_weights import Repair, repaired
from pruning.models.scale_hooks import add_scales


@dataclass(frozen=True)
class SmallerModel:
    """A model without the units of a mask. `numbers` are its blocks' numbers in the dense model."""

    model: LanguageModel
    mask: Mask
    numbers: tuple[int, ...]

    @property
    def dense(self) -> Mask:
        """The mask over the blocks of the smaller model that removes nothing."""
        return Mask(len(self.numbers))

    def block_weights(self) -> dict[str, nn.Parameter]:
        """The weights of the blocks, by their names in the dense model."""
        blocks = find_blocks(self.model.module)
        return {
            f"{blocks.path}.{number}.{name}": weight
            for number, block in zip(self.numbers, blocks.modules, strict=True)
            for name, weight in block.named_parameters()
        }

    def apply(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace weights by healed ones. Raises InputError if a name or a shape does not fit."""
        weights = self.block_weights()
        for name, tensor in tensors.items():
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(f"the healed weights do not fit the model: there is no weight like {name}.")
            weights[name].data.copy_(tensor)


def smaller_model(
    model: LanguageModel, mask: Mask, scales: Sequence[float] | None = None, repair: Repair | None = None
) -> SmallerModel:
    """A copy of a model that lacks the units of a mask.

    `scales` are the factors of a compensation, one per unit; `repair` are maps that are folded into its weights.

    Raises InputError if nothing or everything is removed, or if weights are on disk, and the errors of
    `smaller_config`.
    """
    module = model.module
    numbers = tuple(i for i in range(mask.n_blocks) if i not in mask.gone)
    if not mask.dropped or not numbers:
        raise InputError(f"{mask} are removed, so there is nothing to heal: give a mask that removes some.")
    if any(weight.device.type == "meta" for weight in module.parameters()):
        raise InputError("the model does not fit into memory, so it cannot be trained: use a larger machine.")
    blocks = find_blocks(module)
    inside = {id(weight) for block in blocks.modules for weight in block.parameters()}
    shared = {id(weight): weight for weight in module.parameters() if id(weight) not in inside}
    with repaired(module, repair), blocks_removed(module, mask, smaller_config(module, mask)):
        smaller = copy.deepcopy(module, dict[int, Any](shared))
    found = find_blocks(smaller)
    if scales is not None:
        add_scales(found.modules, mask, scales)
    count = sum(weight.numel() for weight in smaller.parameters())
    info = replace(model.info, n_blocks=len(numbers), parameters=count)
    return SmallerModel(LanguageModel(smaller, info), mask, numbers)
