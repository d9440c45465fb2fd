"""What an export says about itself: its record, the texts beside its weights, and the lines that a command prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pruning.core.units import bytes_text
from pruning.export import facts, metric_text, model_card
from pruning.export.mergekit import mergekit
from pruning.export.model_card import Facts
from pruning.export.parts_text import noun
from pruning.export.portable import portable
from pruning.export.request import Request
from pruning.models import checkpoint, directory, spec
from pruning.models.adapter import has_adapter
from pruning.models.packaged import PACKAGED

if TYPE_CHECKING:
    from pruning.export.plan import Cut


def identity(wanted: Request, cut: Cut) -> dict[str, Any]:
    """What an earlier export must share with this one to be replaced: model and mask, and unless forced the rest."""
    settings = cut.source.settings
    revision = checkpoint.revision(settings)
    weights = {"source": settings.source, "revision": revision}
    if settings.source == "hub":
        weights["path"] = settings.path
    changes: Any = None if wanted.scales is None else list(wanted.scales)
    if wanted.repair is not None:
        changes = {"repair": wanted.repair.sha256}
    healed = None if wanted.healed is None else facts.heal_record(wanted)["weights_sha256"]
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
    return facts.facts(
        wanted,
        source=_source(settings) if wanted.in_memory is None else "a model in memory",
        dtype=settings.dtype,
        hybrid=len(set(getattr(text, "layer_types", None) or ())) > 1,
        sizes=cut.sizes,
        idle=cut.idle,
        proof=proof,
        inherited=model_card.inherit(cut.source.folder),
    )


def _source(settings: spec.Model) -> str:
    if settings.in_directory:
        digest = directory.model_digest(settings.path, settings.gguf_file)
        merged = ", with its adapter merged" if has_adapter(Path(settings.path).expanduser()) else ""
        return (
            f"{'a GGUF file' if settings.gguf_file else 'a directory'} of the digest `{digest[:16]}`{merged}"
        )
    quantised = (
        "" if settings.source == "hub" else f", whose GGUF ({PACKAGED[settings.path].file}) is dequantised"
    )
    return checkpoint.source(settings) + (f" at {settings.revision}" if settings.revision else quantised)


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
    lost = ", ".join(f"{name} {a} -> {b}" for name, a, b in metric_text.metrics(found.result, which))
    sizes, mask = found.sizes, found.mask
    used, in_use = sizes.parameters - found.idle, " in use" if found.idle else ""
    fewer = 1 - used / sizes.dense_parameters
    return "\n".join(
        [
            f"lost    {lost or f'not measured: {metric_text.unmeasured(found.result)}'}",
            f"gained  {len(mask.dropped)} of {mask.n_units} {noun(mask)} removed ({' '.join(mask.names())}), "
            f"{sizes.dense_parameters:,} -> {used:,} parameters{in_use} ({fewer:.1%} fewer), "
            f"{bytes_text(sizes.dense_bytes)} -> {bytes_text(sizes.bytes)} in {found.dtype}"
            + metric_text.speedup_text(found.result),
            f"model   {out} ({found.proof})",
        ]
    )
