"""Plan an export: the smaller configuration, and which tensors are renamed, zeroed, repaired or healed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.core.errors import InputError, UnreachableError, first_line
from pruning.core.mask import Mask
from pruning.export import verify
from pruning.export.checkpoint import (
    BESIDE,
    ModelSizes,
    TensorPlan,
    block_prefix,
    own_tensors,
    stored_tensors,
)
from pruning.export.request import Request
from pruning.models import pruned_config
from pruning.models.blocks import find_blocks
from pruning.models.handle import Model
from pruning.models.kept_models import quiet
from pruning.models.output_maps import folded_weights, output_weights
from pruning.models.sublayers import find_chain

log = logging.getLogger(__name__)
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Cut:
    """The planned output: its configuration, the plan for each tensor, and the sizes of both models.

    If the model is on the hub, `settings` name its commit. `folder` contains the safetensors files of the
    model that is cut, and `tensors` are the tensors in them. Both are None if only transformers can read the
    weights (GGUF). `idle` is the number of parameters in the output that belong to removed parts of blocks.
    """

    settings: Model
    folder: Path | None
    config: Any
    plan: TensorPlan
    tensors: Mapping[str, Tensor] | None
    sizes: ModelSizes
    idle: int = 0


def plan_cut(wanted: Request) -> Cut:
    """Check everything that can be checked without reading weights, and plan the output.

    Raises InputError if the request cannot be met or the model's files are damaged, UnreachableError if its files
    cannot be reached, and UnskippableError if its blocks are not found.
    """
    settings, source, folder = _find_source(wanted.model)
    mask, count = wanted.mask, source.get_text_config(decoder=True).num_hidden_layers
    if mask.n_blocks != count:
        raise InputError(
            f"the mask is over {mask.n_blocks} blocks and model {wanted.model.name} has {count}: "
            "give the model that the mask was made for (model=NAME)."
        )
    if folder is not None and folder.resolve().is_relative_to(wanted.out):
        raise InputError(f"out={wanted.out} contains the model that is to be cut: choose another directory.")
    blocks, dtype = Mask(count, mask.gone), getattr(torch, wanted.model.dtype)
    config = pruned_config.pruned_config(source, blocks)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            part.dtype = dtype
    # `quantization_config` is left over from GGUF; `auto_map` refers to code that is not copied.
    for name in ("quantization_config", "auto_map"):
        if hasattr(config, name):
            delattr(config, name)
    dense, smaller = pruned_config.check_same_blocks(source, config, blocks)
    config.name_or_path = ""  # do not publish the local path
    config.architectures = config.architectures or [type(dense).__name__]
    tensors = None if folder is None else stored_tensors(folder)
    shapes = tensors or own_tensors(dense)
    # Modules that transformers keeps in float32 even if another dtype is requested.
    strict, usual = dense._keep_in_fp32_modules_strict or (), dense._keep_in_fp32_modules or ()
    keep = {"float16": {*strict, *usual}, "bfloat16": {*strict}}.get(wanted.model.dtype, set())
    path, _ = pruned_config.blocks_of(dense, blocks.n_blocks)
    prefix = block_prefix(shapes, path, blocks.n_blocks)
    plan = TensorPlan(blocks, prefix, dtype, tuple(sorted(keep)))
    stored = {old: shape.numel() * plan.precision(old, shape.dtype).itemsize for old, shape in shapes.items()}
    after = sum(size for old, size in stored.items() if plan.rename(old) is not None)
    before, now = (sum(p.numel() for p in model.parameters()) for model in (dense, smaller))
    return Cut(settings, folder, config, plan, tensors, ModelSizes(before, now, sum(stored.values()), after))


def _find_source(settings: Model) -> tuple[Model, Any, Path | None]:
    """A model's settings, configuration and folder (GGUF: None). Downloads a hub model's files; reads no weights."""
    from huggingface_hub import snapshot_download

    settings.check()
    (where, options), config = settings.place, copy.deepcopy(settings.config)
    if "gguf_file" in options:
        config.architectures = None  # set later, from the loaded model
        return settings, config, None
    if settings.source != "hub" or settings.in_directory:
        return settings, config, Path(where)
    patterns = [*WEIGHTS, *BESIDE, "config.json"]
    try:
        with quiet():
            found = snapshot_download(settings.path, revision=settings.revision, allow_patterns=patterns)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"the weights of model {settings.name} ({settings.path}) cannot be fetched ({first_line(error)}): run "
            "the command again with a network, or give them with model=local model.path=DIR."
        ) from error
    folder = Path(found)
    return replace(settings, revision=folder.name), config, folder  # the folder's name is the commit


# Change weights: healed weights, a repair, and zeros for removed parts of blocks.
#
# All three give new values to named weights of the dense model in memory. A checkpoint can store weights
# under other names and in other shapes than the model in memory, such as one tensor per expert. So
# transformers converts all weights of a changed block to the checkpoint's form. No standard architecture has
# blocks without attention or MLP. So if a part of a block is removed, the checkpoint keeps both parts, and
# the output weights of the removed part become zeros.


def changed(wanted: Request, cut: Cut) -> tuple[Cut, verify.Expected | None]:
    """The cut with all changed weights, and the logits that the export must have (None with verify=false).

    The model is loaded only if weights are changed, if logits are needed, or if only transformers can read the
    weights. Raises InputError if the model does not fit into memory or if changed weights are not found in the
    checkpoint, DamagedError if healed weights are damaged, and UnskippableError if sub-layers are not found.
    """
    from pruning.healing.loop import read_weights

    healed: dict[str, Tensor] = {}
    if (record := wanted.heal_record) is not None:
        assert wanted.folder is not None
        healed = read_weights(wanted.folder / record["folder"], record)
    mask = wanted.mask
    removed = [] if mask.unit == "block" else [unit for unit in mask.dropped if unit // 2 not in mask.gone]
    needed = bool(removed or healed) or wanted.repair is not None
    if not (wanted.verify or needed or cut.tensors is None):
        return cut, None
    log.info("loading %s in %s", wanted.model.name, verify.comparison_dtype(wanted.model.dtype))
    model = verify.load_rounded(
        wanted.model, cut.plan.precision, stream=not needed and cut.tensors is not None
    )
    tensors = cut.tensors or own_tensors(model)
    folded = {} if wanted.repair is None else folded_weights(model, wanted.repair, cut.plan.precision)
    folded = {name: values for name, values in folded.items() if name not in healed}
    zeros, idle = zeroed(model, removed)
    weights = dict(model.named_parameters())
    for name, tensor in healed.items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise InputError(f"the healed weights do not fit the model: there is no weight like {name}.")
    new = healed | folded | zeros
    with torch.no_grad():
        for name, values in new.items():
            weights[name].copy_(values.to(cut.plan.precision(name, values.dtype)))
    goal = verify.expected(model, mask) if wanted.verify else None
    if new:
        cut = replace(cut, plan=replace(cut.plan, values=_stored_values(cut.plan, model, new, tensors)))
    return replace(cut, tensors=tensors, idle=idle), goal


def zeroed(model: Any, removed: Sequence[int]) -> tuple[dict[str, Tensor], int]:
    """Zeros for the output weights of removed sub-layers, by name, and the number of these sub-layers' parameters.

    Unit 2i is the attention of block i. Raises UnskippableError if zero weights do not disable a sub-layer.
    """
    if not removed:
        return {}, 0
    path, found = find_blocks(model).path, output_weights(model, removed)
    names = [f"{path}.{unit // 2}.{name}" for unit in removed for name in found[unit]]
    counts = find_chain(model, "sublayer").sizes()
    zeros = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    return zeros, sum(counts[unit] for unit in removed)


def _stored_values(
    plan: TensorPlan, model: Any, changed: Iterable[str], tensors: Mapping[str, Tensor]
) -> dict[tuple[int, str], Tensor]:
    """The tensors to store for blocks with changed weights, by block number and rest of the name.

    Raises InputError if a block's names or shapes differ from those in the checkpoint.
    """
    from transformers.core_model_loading import revert_weight_conversion

    stored = {plan.block_and_tail(name): tensor.shape for name, tensor in tensors.items()}
    blocks, found = f"{find_blocks(model).path}.", dict[tuple[int, str], Tensor]()
    for block in sorted({int(name.removeprefix(blocks).partition(".")[0]) for name in changed}):
        path = f"{blocks}{block}."
        own = {name: weight for name, weight in model.named_parameters() if name.startswith(path)}
        for state in (revert_weight_conversion(model, dict(own)), own):
            values = by_tail(path, state)
            if all(stored.get((block, tail)) == value.shape for tail, value in values.items()):
                found |= {(block, tail): value.detach().cpu() for tail, value in values.items()}
                break
        else:
            unknown = next(tail for tail, one in values.items() if stored.get((block, tail)) != one.shape)
            raise InputError(
                f"the weights of block {block} are not found in the checkpoint, which has no such tensor {unknown}: "
                "remove whole blocks (unit=block), or save the model anew with `save_pretrained`."
            )
    return found


def by_tail(path: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the part of their names after the block's number; `path` is the block's path in the model."""
    numbered = f".{'.'.join(path.split('.')[-3:-1])}."  # such as `.layers.3.`
    tails = {f".{name}".partition(numbered)[2]: tensor for name, tensor in state.items()}
    return {tail: tensor for tail, tensor in tails.items() if tail}
