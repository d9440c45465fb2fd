"""Cut blocks out of a checkpoint, and write a smaller one with the files that belong to it.

The whole model is never in memory, unless only transformers can read its weights (GGUF).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core import storage
from pruning.core.errors import InputError, UnskippableError, first_line
from pruning.core.mask import Mask
from pruning.export.output_dir import TEMPLATES
from pruning.models.handle import Model
from pruning.models.model_files import INDEX, SINGLE, weight_files

LARGEST = "5GB"  # the largest file of weights
FORMAT = {"format": "pt"}  # what transformers expects in a safetensors file


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in a directory's safetensors files, memory-mapped: they are read only when they are used.

    Raises InputError if there are no such files, or if one is missing or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not (files := weight_files(folder)):
        raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}.")
    found: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        try:
            with safe_open(path, framework="pt") as stream:
                named = stream.keys() if "" in files else [name for name in files if files[name] == path]
                found |= {name: stream.get_tensor(name) for name in named}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({first_line(error)}). It may be truncated: copy or download it again."
            ) from error
    return found


def own_tensors(model: Any) -> dict[str, Tensor]:
    """The tensors of a model in memory. Of tied tensors, only one is included."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


# Cut blocks out of a checkpoint. Tensors keep the names that they have in the checkpoint, even if an old
# release of transformers wrote them; only block numbers change.


@dataclass(frozen=True)
class ModelSizes:
    """Parameter and byte counts of the dense and the smaller model, in the export's precision."""

    dense_parameters: int
    parameters: int
    dense_bytes: int
    bytes: int


@dataclass(frozen=True)
class TensorPlan:
    """The new name, precision and values of each tensor of a checkpoint.

    `prefix` is the part of tensor names before a block's number. `keep` names the modules whose tensors keep
    their stored precision, as in transformers. `values` maps a block's old number and the rest of a tensor's
    name to the changed tensor.
    """

    mask: Mask
    prefix: str
    dtype: torch.dtype
    keep: tuple[str, ...] = ()
    values: Mapping[tuple[int, str], Tensor] = field(default_factory=dict)

    def block_and_tail(self, name: str) -> tuple[int, str] | None:
        """The block number in a tensor's name, and the rest of the name; None if the tensor is in no block."""
        match = re.match(rf"{re.escape(self.prefix)}\.(\d+)\.(.*)", name)
        return (int(match[1]), match[2]) if match else None

    def rename(self, name: str) -> str | None:
        """The tensor's name in the smaller checkpoint; None if its block is dropped."""
        if (parts := self.block_and_tail(name)) is None:
            return name
        block, tail = parts
        if block in self.mask.dropped:
            return None
        # Multi-token prediction heads are numbered after the last block; their numbers are lowered too.
        return f"{self.prefix}.{block - sum(gone < block for gone in self.mask.dropped)}.{tail}"

    def precision(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The precision in which the export writes a tensor that the source stores in `dtype`."""
        kept = any(re.search(rf"(^|\.){re.escape(pattern)}(\.|$)", name) for pattern in self.keep)
        return dtype if kept or not dtype.is_floating_point else self.dtype

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor to write for the stored tensor `name`."""
        place = self.block_and_tail(name)
        new = tensor if place is None else self.values.get(place, tensor)
        return new.to("cpu", self.precision(name, tensor.dtype)).contiguous()


def block_prefix(names: Iterable[str], path: str, n_blocks: int) -> str:
    """The part of a checkpoint's tensor names before the block number, for example `model.layers`.

    `path` is the blocks' path in the model. The checkpoint's prefix has the same last part as `path`, but the
    parts before it can be missing or differ. If several prefixes occur with all block numbers, the one that shares
    most parts with `path` is returned. Raises UnskippableError if none has all numbers, or if two share equally many.
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


def write_shards(tensors: Mapping[str, Tensor], plan: TensorPlan, folder: Path) -> None:
    """Write the safetensors files of the smaller checkpoint, with an index if there are several.

    Only one file is in memory at a time. Its size is at most `LARGEST`.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    names = {new: old for old in tensors if (new := plan.rename(old)) is not None}
    shapes = {
        new: tensors[old].to("meta", plan.precision(old, tensors[old].dtype)) for new, old in names.items()
    }
    split = split_torch_state_dict_into_shards(shapes, max_shard_size=LARGEST)
    for file, members in split.filename_to_tensors.items():
        path = folder / file
        path.touch()
        mode = path.stat().st_mode
        save_file({new: plan.tensor(names[new], tensors[names[new]]) for new in members}, path, FORMAT)
        path.chmod(mode)  # safetensors writes files that only their owner can read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        storage.write_json(folder / INDEX, index)


# The files beside the weights.

GENERATION = "generation_config.json"
# Files that a user of the weights needs too; licences are copied with the weights that they cover.
BESIDE = (
    "tokenizer*", "*.model", "*.tiktoken", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "tekken.json",  # the tokenizer of Mistral's own tools
    "chat_template*", f"{TEMPLATES}/*.jinja", "*processor_config.json", GENERATION,
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip


def copy_beside(folder: Path | None, model: Model, target: Path) -> None:
    """Write a model's tokenizer, generation settings and licences to `target`; for GGUF, `folder` is None."""
    from transformers import GenerationConfig

    settings: Any = model.config
    if folder is None:
        model.tokenizer.save_pretrained(target)
    else:
        for path in (path for pattern in BESIDE for path in sorted(folder.glob(pattern)) if path.is_file()):
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        # Read from the file, because transformers removes these settings from a configuration that it loads.
        settings = storage.read_json(folder / "config.json")
    if not (target / GENERATION).exists():
        # `save_pretrained` would refuse what loading accepts, such as a temperature without sampling.
        GenerationConfig.from_model_config(settings).to_json_file(target / GENERATION)


def write_config(config: Any, folder: Path) -> None:
    """Write config.json so that transformers reads the configuration `config` from it."""
    from transformers import AutoConfig

    config.save_pretrained(folder)
    read = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    if _differs(config.to_dict(), read):
        # `save_pretrained` omits settings equal to a default, but a default can depend on another setting.
        config.to_json_file(folder / "config.json", use_diff=False)


def _differs(wanted: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    """Whether a setting that `wanted` and `read` both have, at any depth, differs between them."""
    return any(
        _differs(value, read.get(name, value))
        if isinstance(value, Mapping) and isinstance(read.get(name, value), Mapping)
        else name not in ("transformers_version", "_name_or_path") and read.get(name, value) != value
        for name, value in wanted.items()
    )
