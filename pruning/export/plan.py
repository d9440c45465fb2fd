"""Plan an export: the smaller configuration, and the new name of each tensor. No weights are read here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.export import source_model
from pruning.export.fold_scales import Fold, plan_fold
from pruning.export.model_card import Sizes
from pruning.export.parts_text import noun
from pruning.export.request import Request
from pruning.export.shard_writer import Plan, block_prefix
from pruning.export.tensor_reader import Checkpoint, Loaded
from pruning.models import pruned_config, spec


@dataclass(frozen=True)
class Cut:
    """The planned output: the smaller configuration, the plan for each tensor, and the sizes of both models.

    `idle` is the number of parameters in the output that belong to removed parts of blocks.
    """

    source: source_model.SourceModel
    config: Any
    plan: Plan
    tensors: Checkpoint | None  # None if the model has to be loaded first
    sizes: Sizes
    idle: int = 0


def plan_cut(wanted: Request) -> Cut:
    """Check everything that can be checked without reading weights, and plan the output.

    Raises InputError, UnreachableError or UnskippableError.
    """
    source = source_model.find_source(wanted.model)
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


def check_fold(settings: spec.Model, mask: Mask) -> None:
    """Raise InputError if a model does not allow to fold factors of the removed blocks; no weights are read."""
    source = source_model.find_source(settings)
    dense = pruned_config.skeleton(source.config)
    path, _ = pruned_config.blocks_of(dense, mask.n_blocks)
    tensors = Loaded(dense) if source.folder is None else Checkpoint(source.folder)
    names = list(tensors.shapes())
    plan = Plan(mask, block_prefix(names, path, mask.n_blocks), getattr(torch, settings.dtype))
    _fold(source.config, names, plan, [2.0] * mask.n_blocks)  # any factor but 1 changes weights


def _check_request(wanted: Request, source: source_model.SourceModel) -> None:
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
