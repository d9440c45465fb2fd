"""Cut blocks out of a checkpoint in a stream: read tensors one by one, rename them, and write shard by shard.

The model is never in memory as a whole. Tensors keep the names that they have in the checkpoint, even if
an old release of transformers wrote the checkpoint; only block numbers change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pruning.core import atomic_files
from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.export.tensor_reader import Tensors
from pruning.models.weight_files import INDEX


def block_prefix(names: Iterable[str], path: str, n_blocks: int) -> str:
    """The part of a checkpoint's tensor names before the block number, for example `model.layers`.

    `path` is the path of the blocks in the model; the checkpoint's prefix has the same last part, but the parts
    before it can be missing or differ. If several prefixes have all block numbers, the one that shares the most parts
    with `path` is returned. Raises UnskippableError if no prefix has all numbers, or if several share the most.
    """
    last = path.rpartition(".")[2]
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := re.match(rf"((?:[^.\d][^.]*\.)*?{re.escape(last)})\.(\d+)\.", name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    whole = [prefix for prefix, seen in numbers.items() if seen >= set(range(n_blocks))]
    likeness = {prefix: len(set(prefix.split(".")) & set(path.split("."))) for prefix in whole}
    best = [prefix for prefix in whole if likeness[prefix] == max(likeness.values())]
    if len(best) != 1:
        reason = (
            f"several prefixes fit, {sorted(best)}" if best else f"no names like {path}.0. number all of them"
        )
        raise UnskippableError(f"the {n_blocks} blocks are not found in the checkpoint: {reason}.")
    return best[0]


@dataclass(frozen=True)
class Plan:
    """The new name, precision and values of each tensor of a checkpoint.

    `keep` are names of modules whose tensors keep their stored precision, as in transformers. `change` is called
    with (block, tail, tensor) for each tensor in a block; `block` is the old number.
    """

    mask: Mask
    prefix: str
    dtype: torch.dtype
    keep: tuple[str, ...] = ()
    change: Callable[[int, str, Tensor], Tensor] | None = field(default=None)

    def block_and_tail(self, name: str) -> tuple[int, str] | None:
        """The block number in a tensor's name, and the rest of the name; None if the tensor is in no block."""
        match = re.match(rf"{re.escape(self.prefix)}\.(\d+)\.(.*)", name)
        return (int(match[1]), match[2]) if match else None

    def rename(self, name: str) -> str | None:
        """The name in the smaller checkpoint; None for a tensor of a dropped block."""
        if (parts := self.block_and_tail(name)) is None:
            return name
        block, tail = parts
        if block in self.mask.dropped:
            return None
        # Heads that predict further tokens are numbered after the last block; their numbers are lowered too.
        return f"{self.prefix}.{block - sum(gone < block for gone in self.mask.dropped)}.{tail}"

    def precision(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The precision in which a tensor is written if it is stored in `dtype`."""
        kept = any(re.search(rf"(^|\.){re.escape(pattern)}(\.|$)", name) for pattern in self.keep)
        return dtype if kept or not dtype.is_floating_point else self.dtype

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor to write for the stored tensor `name`."""
        precision = self.precision(name, tensor.dtype)
        if self.change is not None and (parts := self.block_and_tail(name)) is not None:
            tensor = self.change(*parts, tensor)
        return tensor.to(precision).contiguous()


def write_shards(tensors: Tensors, plan: Plan, folder: Path, max_shard_size: str) -> dict[str, str]:
    """Write the safetensors files of the smaller checkpoint, with an index if there are several.

    Returns the SHA-256 of each safetensors file, by name. One tensor is in memory at a time.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    from pruning.export.safetensors_file import write_tensors

    def written(new: str) -> Tensor:
        return plan.tensor(names[new], tensors.read(names[new]))

    names: dict[str, str] = {}
    shapes: dict[str, Tensor] = {}
    for old, shape in tensors.shapes().items():
        if (new := plan.rename(old)) is not None:
            names[new], shapes[new] = old, shape.to(plan.precision(old, shape.dtype))
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    digests = {
        file: write_tensors(folder / file, {new: shapes[new] for new in members}, written)
        for file, members in split.filename_to_tensors.items()
    }
    if split.is_sharded:
        atomic_files.write_json(
            folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        )
    return digests
