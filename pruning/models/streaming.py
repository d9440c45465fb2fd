"""Load a model whose blocks stay in its safetensors files: each block is in memory only while it runs.

Memory is needed for the embedding, the head and one block. Each forward pass reads the blocks' files again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.models.placement import CPU
from pruning.models.pruned_config import blocks_of, skeleton

Rounding = Callable[[str, Tensor], Tensor]


def streamed_options(config: Any, device_map: str) -> dict[str, Any] | None:
    """Options of `from_pretrained` that leave the blocks' weights in their files, and all others in memory.

    None if the model is to be loaded whole: on a GPU, whose memory is its own, and if the files have other tensors
    than the model, such as one for each expert.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    if device_map != CPU and torch.cuda.is_available():
        return None
    model = skeleton(config)
    conversions = get_model_conversion_mapping(model, add_legacy=False)
    if any(isinstance(one, WeightConverter) for one in conversions):
        return None
    path, _ = blocks_of(model, config.get_text_config(decoder=True).num_hidden_layers)
    devices, owner, above = {path: "disk"}, model, ""
    for part in path.split("."):
        own = [
            name for name, _ in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
        ]
        beside = [*own, *(name for name, _ in owner.named_children())]
        devices |= {f"{above}{name}": CPU for name in beside if name != part}
        owner, above = getattr(owner, part), f"{above}{part}."
    return {"device_map": devices}


def read_whole_blocks(model: nn.Module, rounded: Rounding | None = None) -> None:
    """Let a model that was loaded with `streamed_options` read all weights of a block when the block runs.

    Nothing is changed if all weights are in memory.
    By default, each module of a block reads its own weights, which is too late if its parent uses them.
    `rounded(name, values)` gives the values to use for a weight. Values are copied, so that all weights are aligned
    alike in memory, on which the last bit of a product can depend.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
    from accelerate.utils.offload import PrefixedDataset

    config: Any = model.config
    path, blocks = blocks_of(model, config.get_text_config(decoder=True).num_hidden_layers)
    hooks: list[Any] = [module._hf_hook for module in blocks.modules() if hasattr(module, "_hf_hook")]
    stored = [hook.weights_map.dataset for hook in hooks if getattr(hook, "offload", False)]
    if not stored:
        return
    values = _Rounded(stored[0], rounded)
    for number, block in enumerate(blocks):
        remove_hook_from_module(block, recurse=True)
        add_hook_to_module(
            block,
            AlignDevicesHook(
                execution_device=torch.device(CPU),
                offload=True,
                weights_map=PrefixedDataset(values, f"{path}.{number}."),
                place_submodules=True,
            ),
        )


@dataclass(frozen=True)
class _Rounded(Mapping[str, Tensor]):
    """Stored weights by name. Each is read from its file when it is looked up."""

    stored: Mapping[str, Tensor]
    rounded: Rounding | None

    def __getitem__(self, name: str) -> Tensor:
        values = self.stored[name]
        return (values if self.rounded is None else self.rounded(name, values)).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)
