"""Cut blocks out of a checkpoint in a stream: tensors are read one by one, renamed, and written shard by shard.

The model is never in memory as a whole. Tensors keep the names that they have in the checkpoint, whatever release
of transformers wrote it; only the number of the block changes.
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
from pruning.export.tensor_reader import INDEX, Tensors


def block_prefix(names: Iterable[str], path: str, n_blocks: int) -> str:
    """What stands before the number of a block in a checkpoint's names, `model.layers` for one.

    `path` is where the model itself has its blocks; a checkpoint may leave out or rename what is before the last
    part of it. Raises UnskippableError where no prefix, or more than one, counts all the blocks.
    """
    last = path.rpartition(".")[2]
    numbers: dict[str, set[int]] = {}
    for name in names:
        if found := re.match(rf"((?:[^.\d][^.]*\.)*?{re.escape(last)})\.(\d+)\.", name):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    whole = [prefix for prefix, seen in numbers.items() if seen >= set(range(n_blocks))]
    likeness = {prefix: len(set(prefix.split(".")) & set(path.split("."))) for prefix in whole}
    best = [prefix for prefix in whole if likeness[prefix] == max(likeness.values())]
    if len(best) != 1:
        found_ones = f"several fit: {sorted(best)}" if best else f"no names like {path}.0. count them all"
        raise UnskippableError(f"the {n_blocks} blocks are not found in the checkpoint: {found_ones}.")
    return best[0]


@dataclass(frozen=True)
class Plan:
    """What becomes of each tensor of a checkpoint.

    `keep` are patterns of names whose tensors stay in the precision they are stored in, as transformers keeps them.
    `change` is given (block, tail, tensor) of each tensor in a block, with the block's old number.
    """

    mask: Mask
    prefix: str
    dtype: torch.dtype
    keep: tuple[str, ...] = ()
    change: Callable[[int, str, Tensor], Tensor] | None = field(default=None)

    def place(self, name: str) -> tuple[int, str] | None:
        """Block and tail of a tensor's name, or None where it is in no block."""
        found = re.match(rf"{re.escape(self.prefix)}\.(\d+)\.(.*)", name)
        return (int(found[1]), found[2]) if found else None

    def rename(self, name: str) -> str | None:
        """The name in the smaller checkpoint; None for a tensor of a dropped block."""
        if (place := self.place(name)) is None:
            return name
        block, tail = place
        if block in self.mask.dropped:
            return None
        # Numbers behind the last block are those of heads that predict further tokens: they stay behind it.
        return f"{self.prefix}.{block - sum(gone < block for gone in self.mask.dropped)}.{tail}"

    def precision(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """In which precision a tensor that has `dtype` is written."""
        kept = any(re.search(rf"(^|\.){re.escape(pattern)}(\.|$)", name) for pattern in self.keep)
        return dtype if kept or not dtype.is_floating_point else self.dtype

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The values that are written for a tensor of the old name."""
        precision = self.precision(name, tensor.dtype)
        if self.change is not None and (place := self.place(name)) is not None:
            tensor = self.change(*place, tensor)
        return tensor.to(precision).contiguous()


def write_shards(tensors: Tensors, plan: Plan, folder: Path, max_shard_size: str) -> int:
    """Write the smaller checkpoint's safetensors files, and their index where there are several; returns bytes.

    No more than one shard is held in memory.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    names: dict[str, str] = {}
    shapes: dict[str, Tensor] = {}
    for old, shape in tensors.shapes().items():
        if (new := plan.rename(old)) is not None:
            names[new], shapes[new] = old, shape.to(plan.precision(old, shape.dtype))
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    for file, members in split.filename_to_tensors.items():
        shard = {new: plan.tensor(names[new], tensors.read(names[new])) for new in members}
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors makes files for their owner alone
        del shard  # before the next one is read
    if split.is_sharded:
        atomic_files.write_json(
            folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        )
    return int(split.metadata["total_size"])
