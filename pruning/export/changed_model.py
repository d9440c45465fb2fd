"""The model behind an export, and the weights that the export changes: its repair, its healing, and its zeros."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.units import bytes_text
from pruning.export import model_card, verify
from pruning.export.model_card import Facts, mergekit, noun, portable
from pruning.export.plan import Cut, Loaded, Plan, Tensors, by_tail, converted_back, stored_weights
from pruning.export.request import Request
from pruning.export.verify import Expected
from pruning.healing.healed_files import read_weights
from pruning.models.blocks import find_blocks
from pruning.models.kept_models import PACKAGED
from pruning.models.model import Model
from pruning.models.output_maps import folded_weights, output_weights, replaced
from pruning.models.sublayers import find_chain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changed:
    """What is written: the cut with its changes, the tensors to read, and the logits that the export must have.

    `model` is None if nothing is read from it any more. `goal` is None if the export is not verified.
    """

    cut: Cut
    tensors: Any
    model: Any
    goal: Expected | None


def changed(wanted: Request, cut: Cut) -> Changed:
    """Load the model if the export needs it, and plan every change of its weights.

    Raises InputError if the model does not fit into memory, or if the weights of a healing cannot be used.
    """
    healed = None if wanted.healed is None else load_healed(wanted.healed, model_card.heal_record(wanted))
    needed = bool(parts(wanted.mask)) or wanted.repair is not None or healed is not None
    model = None
    if wanted.verify or cut.tensors is None or needed:
        log.info("loading %s in %s", wanted.model.name, verify.comparison_dtype(wanted.model.dtype))
        model = verify.load_rounded(wanted.model, cut.plan.precision, needed=needed)
    folded = {} if wanted.repair is None else folded_weights(model, wanted.repair, cut.plan.precision)
    weights = {name: values for name, values in folded.items() if name not in (healed or {})}
    tensors = cut.tensors or Loaded(model)
    # The stored tensors are found by the dense model's own weights, so these change only afterwards.
    new = with_repair(with_zeros(cut, wanted.mask, model, tensors), weights, model, tensors)
    if healed is not None:
        new = with_healed(new, model, healed, tensors)
        apply_healed(model, healed, new.plan)
    with replaced(model, weights):
        goal = verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None
    return Changed(new, tensors, model if cut.tensors is None else None, goal)


# Put the healed weights of a cell into an export: into the model that proves it, and into the stored tensors.
#
# The weights have the names of the dense model in memory. A checkpoint can store them under other names and in
# other shapes, such as one tensor per expert. So transformers converts them back, and each must be found in the
# checkpoint; otherwise the export is refused.

Change = Callable[[int, str, Tensor], Tensor]


def load_healed(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The healed weights of a cell's folder. Raises DamagedError if they are not those of the record."""
    return read_weights(folder / record["folder"], record)


def apply_healed(model: Any, healed: Mapping[str, Tensor], plan: Plan) -> None:
    """Replace weights of the dense model by healed ones, rounded as in the export.

    Raises InputError if a weight does not fit.
    """
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in healed.items():
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(f"the healed weights do not fit the model: there is no weight like {name}.")
            weights[name].copy_(tensor.to(plan.precision(name, tensor.dtype)))


def with_healed(cut: Cut, model: Any, healed: Mapping[str, Tensor], tensors: Tensors) -> Cut:
    """The cut that writes healed tensors in place of the stored ones, before any other change of the cut.

    `model` is the dense model. Raises InputError if a healed weight is not found in the checkpoint.
    """
    stored = {found for name in tensors.shapes() if (found := cut.plan.block_and_tail(name)) is not None}
    replaced = _by_place(model, healed, stored)
    change = cut.plan.change

    def healed_first(block: int, tail: str, tensor: Tensor) -> Tensor:
        new = replaced.get((block, tail), tensor)
        return new if change is None else change(block, tail, new)

    return replace(cut, plan=replace(cut.plan, change=healed_first))


def _by_place(
    model: Any, healed: Mapping[str, Tensor], stored: set[tuple[int, str]]
) -> dict[tuple[int, str], Tensor]:
    """The healed tensors as the checkpoint stores them, by block and rest of the name."""
    path, found = find_blocks(model).path, dict[tuple[int, str], Tensor]()
    for block in sorted({int(name[len(path) + 1 :].partition(".")[0]) for name in healed}):
        prefix = f"{path}.{block}."
        own = {name: tensor for name, tensor in healed.items() if name.startswith(prefix)}
        tails = by_tail(prefix, own)
        if not {(block, tail) for tail in tails} <= stored:
            tails = by_tail(prefix, converted_back(model, own))
        if missing := sorted(tail for tail in tails if (block, tail) not in stored):
            raise InputError(
                f"the healed weight {missing[0]} of block {block} is not found in the checkpoint: save the model "
                "anew with `save_pretrained`, and search and heal that one."
            )
        found |= {(block, tail): tensor for tail, tensor in tails.items()}
    return found


# Write folded maps: the stored tensors of repaired sub-layers get other values (`models/repaired_weights.py`).


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


# Switch off sub-layers in a checkpoint: their output weights become zeros, and the file keeps its size.
#
# No standard architecture has blocks without attention or MLP, so a checkpoint that everybody can load keeps both
# parts of a block. The weights are found in the model in memory (`models/output_weights.py`), and then in the
# checkpoint (`stored_weights.py`).


@dataclass(frozen=True)
class Zeros:
    """The stored tensors that become zeros, as (block, rest of the name); `block` counts the dense model's blocks."""

    tensors: frozenset[tuple[int, str]]

    def __call__(self, block: int, tail: str, tensor: Tensor) -> Tensor:
        """The tensor to write for a block's tensor."""
        return torch.zeros_like(tensor) if (block, tail) in self.tensors else tensor


def parts(mask: Mask) -> tuple[int, ...]:
    """The removed sub-layers whose block keeps the other one; empty if a mask removes whole blocks."""
    if mask.unit == "block":
        return ()
    return tuple(unit for unit in mask.dropped if unit // 2 not in mask.gone)


def with_zeros(cut: Cut, mask: Mask, model: Any, tensors: Tensors) -> Cut:
    """The cut in which the parts of blocks that a mask removes are zeros; unchanged if it removes whole blocks.

    `model` is the dense model, with weights rounded as in the export. Raises UnskippableError if the sub-layers or
    their output weights cannot be found, and InputError if the stored tensors are not certain.
    """
    if not (removed := parts(mask)):
        return cut
    names = output_weights(model, removed)
    found: set[tuple[int, str]] = set()
    for block in sorted({unit // 2 for unit in removed}):
        weights = [name for unit in removed if unit // 2 == block for name in names[unit]]
        found |= {(block, tail) for tail in stored_weights(cut.plan, model, block, weights, tensors).tails}
    sizes = find_chain(model, "sublayer").sizes()
    zeros = Zeros(frozenset(found))
    return replace(cut, plan=replace(cut.plan, change=zeros), idle=sum(sizes[unit] for unit in removed))


# What an export says about itself: its record, the texts beside its weights, and the lines that a command prints.


def identity(wanted: Request, cut: Cut) -> dict[str, Any]:
    """What an earlier export must share with this one to be replaced: model and mask, and unless forced the rest."""
    settings = cut.source.settings
    revision = settings.recorded_revision
    weights = {"source": settings.source, "revision": revision}
    if settings.source == "hub":
        weights["path"] = settings.path
    changes: Any = None if wanted.scales is None else list(wanted.scales)
    if wanted.repair is not None:
        changes = {"repair": wanted.repair.sha256}
    healed = None if wanted.healed is None else model_card.heal_record(wanted)["weights_sha256"]
    return {
        "mask": wanted.mask.to_json(),
        "model": weights,
        "precision": settings.dtype,
        "compensation": changes,
        "healed": healed,
    }


def facts_of(wanted: Request, cut: Cut, proof: str) -> Facts:
    """Everything that the model card says; `proof` is the comparison with the masked model, in words."""
    settings = wanted.model
    text = cut.source.config.get_text_config(decoder=True)
    return model_card.facts(
        wanted,
        source=_source(settings) if wanted.in_memory is None else "a model in memory",
        dtype=settings.dtype,
        hybrid=len(set(getattr(text, "layer_types", None) or ())) > 1,
        sizes=cut.sizes,
        idle=cut.idle,
        proof=proof,
        inherited=model_card.inherit(cut.source.folder),
    )


def _source(settings: Model) -> str:
    if settings.in_directory:
        assert settings.files is not None
        digest = settings.files.digest
        merged = ", with its adapter merged" if settings.files.has_adapter else ""
        return (
            f"{'a GGUF file' if settings.gguf_file else 'a directory'} of the digest `{digest[:16]}`{merged}"
        )
    quantised = (
        "" if settings.source == "hub" else f", whose GGUF ({PACKAGED[settings.path].file}) is dequantised"
    )
    return settings.origin + (f" at {settings.revision}" if settings.revision else quantised)


def write_texts(found: Facts, folder: Path) -> None:
    """Write the model card, and for whole blocks a configuration for mergekit."""
    (folder / "README.md").write_text(model_card.model_card(found), encoding="utf-8")
    if found.mask.unit == "block":  # mergekit copies whole layers
        (folder / "mergekit.yaml").write_text(mergekit(found), encoding="utf-8")


def record(wanted: Request, found: Facts) -> dict[str, Any]:
    """What the record says about the export, besides its identity."""
    return {
        "cell": wanted.cell,
        "settings": portable(dataclasses.asdict(wanted.model) | {"path": found.base}),
        "sizes": dataclasses.asdict(found.sizes),
        "proof": found.proof,
        **({} if found.repair is None else {"repaired": list(found.repair)}),
        **({"form": wanted.form, "idle_parameters": found.idle} if found.mask.unit == "sublayer" else {}),
    }


def summary(found: Facts, out: Path) -> str:
    """Three lines: the change of the metrics, the reduction in size with the speedup, and the model's directory."""
    which: Literal["pruned", "healed"] = "pruned" if found.healed is None else "healed"
    lost = ", ".join(f"{name} {a} -> {b}" for name, a, b in model_card.metrics(found.result, which))
    sizes, mask = found.sizes, found.mask
    used, in_use = sizes.parameters - found.idle, " in use" if found.idle else ""
    fewer = 1 - used / sizes.dense_parameters
    return "\n".join(
        [
            f"lost    {lost or f'not measured: {model_card.unmeasured(found.result)}'}",
            f"gained  {len(mask.dropped)} of {mask.n_units} {noun(mask)} removed ({' '.join(mask.names())}), "
            f"{sizes.dense_parameters:,} -> {used:,} parameters{in_use} ({fewer:.1%} fewer), "
            f"{bytes_text(sizes.dense_bytes)} -> {bytes_text(sizes.bytes)} in {found.dtype}"
            + model_card.speedup_text(found.result),
            f"model   {out} ({found.proof})",
        ]
    )
