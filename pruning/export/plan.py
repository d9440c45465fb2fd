"""Plan an export: the smaller configuration, and the new name of each tensor. No weights are read here."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pruning.core import storage
from pruning.core.errors import InputError, UnreachableError, UnskippableError, first_line
from pruning.core.mask import Mask
from pruning.export.model_card import Sizes, noun
from pruning.export.output_dir import TEMPLATES
from pruning.export.request import Request
from pruning.models import preflight, pruned_config
from pruning.models.blocks import find_blocks
from pruning.models.kept_models import quiet
from pruning.models.model import Model
from pruning.models.model_files import INDEX, SINGLE, weight_files


@dataclass(frozen=True)
class Cut:
    """The planned output: the smaller configuration, the plan for each tensor, and the sizes of both models.

    `idle` is the number of parameters in the output that belong to removed parts of blocks.
    """

    source: SourceModel
    config: Any
    plan: Plan
    tensors: Checkpoint | None  # None if the model has to be loaded first
    sizes: Sizes
    idle: int = 0


def plan_cut(wanted: Request) -> Cut:
    """Check everything that can be checked without reading weights, and plan the output.

    Raises InputError, UnreachableError or UnskippableError.
    """
    source = find_source(wanted.model)
    _check_request(wanted, source)
    blocks = Mask(wanted.mask.n_blocks, wanted.mask.gone)
    config = pruned_config.pruned_config(source.config, blocks)
    _set_dtype(config, getattr(torch, wanted.model.dtype))
    dense, smaller = pruned_config.check_same_blocks(source.config, config, blocks)
    config.name_or_path = ""  # do not publish the local path
    config.architectures = config.architectures or [type(dense).__name__]
    path, _ = pruned_config.blocks_of(dense, wanted.mask.n_blocks)
    tensors = Checkpoint(source.folder) if source.folder is not None else None
    shapes = tensors.shapes() if tensors is not None else Loaded(dense).shapes()
    names = list(shapes)
    plan = Plan(
        blocks,
        block_prefix(names, path, wanted.mask.n_blocks),
        getattr(torch, wanted.model.dtype),
        _kept_precise(dense, wanted.model.dtype),
    )
    if wanted.scales is not None:
        plan = replace(plan, change=_fold(source.config, names, plan, wanted.scales))
    return Cut(source, config, plan, tensors, _sizes(plan, shapes, dense, smaller))


def check_fold(settings: Model, mask: Mask) -> None:
    """Raise InputError if a model does not allow to fold factors of the removed blocks; no weights are read."""
    source = find_source(settings)
    dense = pruned_config.skeleton(source.config)
    path, _ = pruned_config.blocks_of(dense, mask.n_blocks)
    tensors = Loaded(dense) if source.folder is None else Checkpoint(source.folder)
    names = list(tensors.shapes())
    plan = Plan(mask, block_prefix(names, path, mask.n_blocks), getattr(torch, settings.dtype))
    _fold(source.config, names, plan, [2.0] * mask.n_blocks)  # any factor but 1 changes weights


def _check_request(wanted: Request, source: SourceModel) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    mask, count = wanted.mask, source.config.get_text_config(decoder=True).num_hidden_layers
    if mask.n_blocks != count:
        raise InputError(
            f"the mask is over {mask.n_blocks} blocks and model {wanted.model.name} has {count}: "
            "give the model that the mask was made for (model=NAME)."
        )
    if not mask.dropped or not mask.kept:
        if mask.n_units == 1:
            raise InputError(f"model {wanted.model.name} has one block, so no block can be removed.")
        raise InputError(
            f"{len(mask.dropped)} of {mask.n_units} {noun(mask)} removed leaves nothing to export: drop 1 to "
            f"{mask.n_units - 1}."
        )
    if source.folder is not None and source.folder.resolve().is_relative_to(wanted.out):
        raise InputError(f"out={wanted.out} contains the model that is to be cut: choose another directory.")
    try:
        split_torch_state_dict_into_shards({}, max_shard_size=wanted.max_shard_size)
    except ValueError as error:
        raise InputError(
            f"max_shard_size={wanted.max_shard_size} is not a size: give one such as 5GB or 500MB."
        ) from error


def _set_dtype(config: Any, dtype: Any) -> None:
    """Set the dtype of a configuration and of the configurations nested in it; remove outdated settings."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part.dtype = dtype
    # `quantization_config` is left over from GGUF; `auto_map` refers to code that is not copied.
    for name in ("quantization_config", "auto_map"):
        if hasattr(config, name):
            delattr(config, name)


def _kept_precise(model: Any, dtype: str) -> tuple[str, ...]:
    """Names of modules that transformers keeps in float32 even if another dtype is requested."""
    strict = set(model._keep_in_fp32_modules_strict or ()) if dtype in ("float16", "bfloat16") else set()
    return tuple(sorted(strict | (set(model._keep_in_fp32_modules or ()) if dtype == "float16" else set())))


def _fold(config: Any, names: Sequence[str], plan: Plan, scales: Sequence[float]) -> Fold:
    parts = [plan.block_and_tail(name) for name in names]
    others = [name for name, part in zip(names, parts, strict=True) if part is None]
    in_blocks = [part for part in parts if part is not None]
    return plan_fold(config, in_blocks, others, plan.mask, scales)


def _sizes(plan: Plan, shapes: Mapping[str, Tensor], dense: Any, smaller: Any) -> Sizes:
    stored = {old: shape.numel() * plan.precision(old, shape.dtype).itemsize for old, shape in shapes.items()}
    after = sum(size for old, size in stored.items() if plan.rename(old) is not None)
    before, now = (sum(p.numel() for p in model.parameters()) for model in (dense, smaller))
    return Sizes(before, now, sum(stored.values()), after)


def write_config(config: Any, folder: Path) -> None:
    """Write config.json so that it is read back unchanged. Raises InputError if that is impossible."""
    from transformers import AutoConfig

    config.save_pretrained(folder)
    if list(_lost(config.to_dict(), AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict())):
        # `save_pretrained` omits settings equal to a default, but a default can depend on another setting.
        config.to_json_file(folder / "config.json", use_diff=False)
    if lost := list(
        _lost(config.to_dict(), AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict())
    ):
        raise InputError(
            f"a {config.model_type} configuration loses {', '.join(lost)} when it is saved, so it cannot be exported."
        )


def _lost(wanted: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
    """The names of settings whose values changed between writing and reading."""
    for name, value in wanted.items():
        other = read.get(name, value)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from (f"{name}.{inner}" for inner in _lost(value, other))
        elif name not in ("transformers_version", "_name_or_path") and other != value:
            yield name


# The files of the model that is to be cut: configuration, weights, and the files that are copied unchanged.

GENERATION = "generation_config.json"
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
# Files that a user of the weights needs too; licences are copied with the weights that they cover.
BESIDE = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "tekken.json",  # the tokenizer of Mistral's own tools
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    f"{TEMPLATES}/*.jinja",
    "*processor_config.json",
    GENERATION,
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


@dataclass(frozen=True)
class SourceModel:
    """A model to cut. If it comes from a hub, its settings name the commit.

    `folder` holds its safetensors files; it is None if only transformers can read the weights (GGUF).
    """

    settings: Model
    config: Any
    folder: Path | None

    def copy_beside(self, target: Path, model: Any) -> None:
        """Copy tokenizer, generation settings and licences; if there is no folder, licences are left out."""
        if self.folder is None:
            self.settings.tokenizer.save_pretrained(target)
            model.generation_config.save_pretrained(target)
            return
        for path in _beside(self.folder):
            copy = target / path.relative_to(self.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        if not (target / GENERATION).exists():
            _write_generation(self.folder, target)


def _beside(folder: Path) -> Iterator[Path]:
    """Yield the files of a model that are copied unchanged."""
    for pattern in BESIDE:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def _write_generation(folder: Path, target: Path) -> None:
    """Write the generation settings that transformers reads from config.json if the model has no file for them.

    They are read from the file, because a configuration that transformers has read or written does not hold them.
    """
    from transformers import GenerationConfig

    found = GenerationConfig.from_model_config(storage.read_json(folder / "config.json"))
    # `save_pretrained` would refuse what loading accepts, such as a temperature without sampling.
    found.to_json_file(target / GENERATION)


def find_source(settings: Model) -> SourceModel:
    """Find the files of a model; the files of a hub model are downloaded. No weights are read.

    Raises InputError if the model cannot be cut or its files are damaged, and UnreachableError if its files cannot be
    reached.
    """
    from transformers import AutoConfig

    preflight.check_model(settings)
    where, options = settings.weights_place
    config = settings.read_with(AutoConfig, where, options)
    if "gguf_file" in options:
        config.architectures = None  # set later, from the loaded model
        return SourceModel(settings, config, None)
    if settings.source != "hub" or settings.in_directory:
        return SourceModel(settings, config, Path(where))
    folder = _snapshot(settings)
    return SourceModel(
        replace(settings, revision=folder.name), config, folder
    )  # the folder's name is the commit


def _snapshot(settings: Model) -> Path:
    """The folder of a hub model's files, which are downloaded unless they are in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with quiet():
            patterns = [*WEIGHTS, *BESIDE, "config.json"]
            return Path(snapshot_download(settings.path, revision=settings.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"model {settings.name} ({settings.path}) cannot be fetched ({first_line(error)}). If it is gated, "
            "accept its terms on the hub and log in with `hf auth login`; without a network, use model=local "
            "model.path=DIR."
        ) from error


# Find the tensors of a checkpoint that hold some weights of a block of the model in memory.
#
# A checkpoint can store weights under other names and in other shapes than the model has, such as one tensor per
# expert. So the block's weights are converted back by transformers, and the stored tensors must be found again with
# the same values; otherwise the export is refused.

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


# Read the tensors of a model one at a time, from safetensors files or from a model in memory.


class Tensors(Protocol):
    """The tensors of a checkpoint: `shapes` lists them without reading them, and `read` reads one."""

    def shapes(self) -> Mapping[str, Tensor]:
        """Tensors on the meta device by name, in the best order for reading."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        ...


class Checkpoint:
    """The tensors in the safetensors files of a directory; one file is open at a time."""

    def __init__(self, folder: Path) -> None:
        self.files = _files(folder)
        self._open: tuple[str, Any] | None = None

    def shapes(self) -> Mapping[str, Tensor]:
        """See `Tensors`; only the headers of the files are read."""
        shapes = {}
        for name, path in self.files.items():
            with _reading(path):
                part = self._handle(path).get_slice(name)
            if (dtype := DTYPES.get(part.get_dtype())) is None:
                raise InputError(
                    f"tensor {name} of {path} is stored in {part.get_dtype()}, which cannot be cut: give a "
                    f"checkpoint in one of {', '.join(DTYPES)}."
                )
            shapes[name] = torch.empty(part.get_shape(), dtype=getattr(torch, dtype), device="meta")
        return shapes

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        with _reading(self.files[name]):
            tensor: Tensor = self._handle(self.files[name]).get_tensor(name)
        return tensor

    def _handle(self, path: Path) -> Any:
        from safetensors import safe_open

        if self._open is None or self._open[0] != str(path):
            self._open = (str(path), safe_open(path, framework="pt"))
        return self._open[1]


DTYPES = {
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def _files(folder: Path) -> dict[str, Path]:
    """The file of each tensor, sorted by file. Raises InputError if there are no weights, or if a file is missing."""
    from safetensors import safe_open

    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}.")
    if (single := files.get("")) is None:
        return dict(sorted(files.items(), key=lambda item: item[1]))
    with _reading(single), safe_open(single, framework="pt") as stream:
        return dict.fromkeys(stream.keys(), single)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of reading a weight file into an InputError that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}). It may be truncated: copy or download it again."
        ) from error


class Loaded:
    """The tensors of a model in memory, without tied copies; for weights that only transformers can read (GGUF)."""

    def __init__(self, model: Any) -> None:
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        self.state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}

    def shapes(self) -> Mapping[str, Tensor]:
        """See `Tensors`; taken from the model's state dictionary."""
        return {name: tensor.to("meta") for name, tensor in self.state.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        tensor: Tensor = self.state[name].cpu()
        return tensor


# Cut blocks out of a checkpoint in a stream: read tensors one by one, rename them, and write shard by shard.
#
# The model is never in memory as a whole. Tensors keep the names that they have in the checkpoint, even if
# an old release of transformers wrote the checkpoint; only block numbers change.


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
        storage.write_json(
            folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        )
    return digests


# Write a safetensors file tensor by tensor, and compute its digest meanwhile: the file is not read again.

NAMES = {getattr(torch, name): code for code, name in DTYPES.items()}


def write_tensors(path: Path, shapes: Mapping[str, Tensor], tensor: Callable[[str], Tensor]) -> str:
    """Write a file and return its SHA-256. One tensor is in memory at a time.

    `shapes` are tensors on the meta device, and `tensor` returns the values for a name. Raises InputError if a
    precision has no name in the format.
    """
    # The values are mapped into memory by readers, so the widest come first: then all of them are aligned.
    names = sorted(shapes, key=lambda name: -shapes[name].dtype.itemsize)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        header = _header(names, shapes)
        stream.write(header)
        digest.update(header)
        for name in names:
            values = _bytes(tensor(name))
            stream.write(values)
            digest.update(values)
    return digest.hexdigest()


def _header(names: list[str], shapes: Mapping[str, Tensor]) -> bytes:
    """The length of the table of tensors, and the table, padded to a multiple of eight bytes."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        shape = shapes[name]
        if shape.dtype not in NAMES:
            raise InputError(
                f"tensor {name} is stored in {shape.dtype}, which safetensors files cannot hold."
            )
        end = start + shape.numel() * shape.dtype.itemsize
        table[name] = {"dtype": NAMES[shape.dtype], "shape": list(shape.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    values: np.ndarray[Any, np.dtype[np.uint8]] = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return values.data


# Fold a compensation into weights: scales of the residual stream become scales of the blocks' outputs.
#
# In the engine, a dropped block i multiplies the residual stream by s_i. If a block normalises its input, the
# block's output does not depend on the stream's scale. Let c be the product of s_i over the dropped blocks before a
# kept block. If each kept block adds 1/c of its output, the stream is 1/c of the engine's stream. The norm before
# the vocabulary projection removes this factor. The embeddings, and a vocabulary projection tied to them, do not
# change. The fold is exact except for the norms' epsilon and rounding.

# ATTENTION and MLP match the name of a last projection: the part of a tensor's name after the block number.
ATTENTION = re.compile(
    r"(.*\.)?(self_attn|attn|attention|self_attention)\.(o_proj|out_proj|c_proj|dense|wo)\.\w+"
)
MLP = re.compile(r"(.*\.)?(down_proj|c_proj|fc2|fc_out|dense_4h_to_h|w2)(\.\w+|_bias)?")
INPUT_NORM = re.compile(r"(input_layernorm|ln_1|self_attn_layer_norm|norm_1|attention_norm)\.\w+")
FINAL_NORM = re.compile(r"(.*\.)?(norm|ln_f|final_layer_norm|final_layernorm|norm_f)\.weight")
# Gemma 2 and 3 normalise the output of each sub-layer. These norms multiply by 1 + weight; the fold scales this sum.
SANDWICH = re.compile(r"(post_attention_layernorm|post_feedforward_layernorm)\.weight")
SANDWICHED = ("gemma2", "gemma3", "gemma3_text")
# Settings with which a block does not normalise its input, or adds to the output of its norm.
UNNORMALISED = {"do_layer_norm_before": False, "apply_residual_connection_post_layernorm": True}
ADD_TO_NORM = ("minimax",)  # each block adds to the output of its norm, not to the input of the norm


@dataclass(frozen=True)
class Fold:
    """The factor on the output of each block; 1 leaves the block unchanged. `factors` has one entry per block."""

    factors: tuple[float, ...]
    sandwich: bool = False

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """The tensor to write for a block's tensor; `block` is the old number, and `tail` is the rest of the name."""
        if (factor := self.factor(block, tail)) == 1.0:
            return tensor
        return (tensor.float() + 1) * factor - 1 if self.sandwich else tensor.float() * factor

    def factor(self, block: int, tail: str) -> float:
        """The factor on a block's tensor, or on 1 + the tensor of a norm; 1 for a tensor that does not change."""
        patterns = [SANDWICH] if self.sandwich else [ATTENTION, MLP]
        scaled = block < len(self.factors) and any(pattern.fullmatch(tail) for pattern in patterns)
        return self.factors[block] if scaled else 1.0


def check_scales(scales: Sequence[float], mask: Mask) -> None:
    """Raise InputError unless each block has a factor, and the dropped blocks' factors are positive and finite."""
    if len(scales) != mask.n_blocks:
        raise InputError(
            f"{len(scales)} scales for a model of {mask.n_blocks} blocks: give one for each block."
        )
    if wrong := [i for i in mask.dropped if not (math.isfinite(scales[i]) and scales[i] > 0)]:
        raise InputError(f"the scales of blocks {wrong} are not positive finite numbers.")


def plan_fold(
    config: Any, names: Iterable[tuple[int, str]], others: Iterable[str], mask: Mask, scales: Sequence[float]
) -> Fold:
    """The fold of `scales`, which has one entry for each block; only the entries of dropped blocks have an effect.

    `names` has (block, tail) for each tensor of a block, and `others` has the names of all other tensors. Raises
    InputError if it is not certain that the architecture allows the fold.
    """
    check_scales(scales, mask)
    factors, stream = [], 1.0
    for block in range(mask.n_blocks):
        factors.append(1.0 if block in mask.dropped else 1.0 / stream)
        stream *= scales[block] if block in mask.dropped else 1.0
    text = config.get_text_config(decoder=True)
    tails: dict[int, list[str]] = {}
    for block, tail in names:
        tails.setdefault(block, []).append(tail)
    if why := _why_not_folded(text, tails, list(others), [i for i in mask.kept if factors[i] != 1.0]):
        raise InputError(f"the compensation cannot be folded into a {text.model_type} model: {why}.")
    return Fold(tuple(factors), text.model_type in SANDWICHED)


def _why_not_folded(
    text: Any, tails: dict[int, list[str]], others: Sequence[str], blocks: Sequence[int]
) -> str | None:
    """Why it is not certain that these blocks' outputs can be scaled; None if it is certain."""
    if text.model_type in ADD_TO_NORM:
        return "its blocks add to the outputs of their norms"
    for name, value in UNNORMALISED.items():
        if getattr(text, name, None) is value:
            return f"with {name}={value} its blocks do not normalise the residual stream"
    if not any(FINAL_NORM.fullmatch(name) for name in others):
        return "no norm before its vocabulary projection is recognised"
    sandwich = text.model_type in SANDWICHED
    for block in blocks:
        names = tails.get(block, [])
        if not any(INPUT_NORM.fullmatch(tail) for tail in names):
            return f"no norm at the input of block {block} is recognised"
        if not sandwich and any("post_feedforward" in tail or "post_mlp" in tail for tail in names):
            return f"the norms after the sub-layers of block {block} are not supported"
        wanted = [SANDWICH] if sandwich else [ATTENTION, MLP]
        if not all(any(pattern.fullmatch(tail) for tail in names) for pattern in wanted):
            return f"the last projections of block {block} are not recognised"
    return None
