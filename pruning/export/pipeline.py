"""Write a checkpoint without the removed blocks, and prove that it equals the masked model.

python -m pruning.export CELL_OR_MASK out=DIR                  a finished cell's folder, or a mask.json and model=NAME
python -m pruning.export --drop 3,7,12 out=DIR model=local model.path=MODEL
python -m pruning.export CELL_OR_MASK out=FILE.gguf            the same for a GGUF file (gguf_pipeline.py)
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pruning.core.command import guarded
from pruning.core.pages import prepare_process
from pruning.core.units import bytes_text
from pruning.export import facts, metric_text, model_card, request
from pruning.export.gguf_target import is_gguf
from pruning.export.manifest import write_record
from pruning.export.mergekit import mergekit
from pruning.export.model_card import Facts
from pruning.export.output_dir import (
    check_same,
    check_space,
    check_target,
    put_in_place,
    staging_directory,
)
from pruning.export.output_dir import (
    directory as output_directory,
)
from pruning.export.parts_text import noun
from pruning.export.portable import portable
from pruning.export.request import Request
from pruning.export.settle import settled
from pruning.models import checkpoint, directory, spec
from pruning.models.adapter import has_adapter
from pruning.models.packaged import PACKAGED

if TYPE_CHECKING:
    from pruning.export.plan import Cut

log = logging.getLogger(__name__)

UNPROVEN = "not compared with the masked model (verify=false)"


def export(wanted: Request) -> Facts:
    """Write the directory `wanted.out`. An earlier export is replaced in the last step, and kept if a step fails.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    If the disk is full, raises InputError and leaves nothing behind. Raises MismatchError if the written model does
    not equal the masked model.
    """
    from pruning.export import verify
    from pruning.export.healed_weights import apply_healed, load_healed, with_healed
    from pruning.export.plan import plan_cut, write_config
    from pruning.export.repaired_parts import with_repair
    from pruning.export.shard_writer import write_shards
    from pruning.export.tensor_reader import Loaded
    from pruning.export.zeroed_parts import parts, with_zeros
    from pruning.models.repaired_weights import folded_weights, replaced

    wanted = settled(wanted)
    earlier = check_target(wanted.out)
    cut = plan_cut(wanted)
    identity = _identity(wanted, cut)
    launched = wanted.cell if wanted.launched else None
    check = partial(check_same, wanted.out, wanted=identity, force=wanted.force, launched=launched)
    check(earlier)
    check_space(wanted.out, cut.sizes.bytes)
    wanted = dataclasses.replace(wanted, model=cut.source.settings)
    model, proof = None, UNPROVEN
    healed = None if wanted.healed is None else load_healed(wanted.healed, facts.heal_record(wanted))
    needed = bool(parts(wanted.mask)) or wanted.repair is not None or healed is not None
    if wanted.verify or cut.tensors is None or needed:
        log.info("loading %s in %s", wanted.model.name, verify.comparison_dtype(wanted.model.dtype))
        model = verify.load_rounded(wanted.model, cut.plan.precision, needed=needed)
    folded = {} if wanted.repair is None else folded_weights(model, wanted.repair, cut.plan.precision)
    weights = {name: values for name, values in folded.items() if name not in (healed or {})}
    tensors = cut.tensors or Loaded(model)
    # The stored tensors are found by the dense model's own weights, so these change only afterwards.
    cut = with_repair(with_zeros(cut, wanted.mask, model, tensors), weights, model, tensors)
    if healed is not None:
        cut = with_healed(cut, model, healed, tensors)
        apply_healed(model, healed, cut.plan)
    with replaced(model, weights):
        goal = verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None
    del weights, folded
    if cut.tensors is not None:
        model = None  # not needed any more
    with staging_directory(wanted.out) as staged:
        log.info("writing %s", bytes_text(cut.sizes.bytes))
        digests = write_shards(tensors, cut.plan, staged, wanted.max_shard_size)
        cut.source.copy_beside(staged, model)
        write_config(cut.config, staged)
        del tensors, model
        if goal is not None:
            log.info("reloading and comparing")
            of = request.reference(wanted)
            proof = str(verify.compare_export(staged, goal, wanted.model, wanted.scales is None, of))
        found = _facts(wanted, cut, proof)
        _write_texts(found, staged)
        write_record(staged, {**_record(wanted, found), **identity}, digests)
        put_in_place(staged, wanted.out, earlier, check)
    return found


def _identity(wanted: Request, cut: Cut) -> dict[str, Any]:
    """What an earlier export must share with this one to be replaced: model and mask, and unless forced the rest."""
    settings = cut.source.settings
    revision = checkpoint.revision(settings, cut.source)  # the source's configuration names the commit
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


def _facts(wanted: Request, cut: Cut, proof: str) -> Facts:
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


def _write_texts(found: Facts, folder: Path) -> None:
    (folder / "README.md").write_text(model_card.model_card(found), encoding="utf-8")
    if found.mask.unit == "block":  # mergekit copies whole layers
        (folder / "mergekit.yaml").write_text(mergekit(found), encoding="utf-8")


def _record(wanted: Request, found: Facts) -> dict[str, Any]:
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


def export_cell(folder: Path, out: Path, healed: bool = False) -> str:
    """Export a finished cell, or its healed model, as a launch does; returns the three lines of `summary`.

    Raises as `export` does.
    """
    wanted = dataclasses.replace(request.of_cell(folder, output_directory(out)), launched=True)
    if healed:
        wanted = request.of_healed(folder, wanted)
    return summary(written(wanted), wanted.out)


def written(wanted: Request) -> Facts:
    """Write what is asked for, a directory or a GGUF file; raises as `export` and `export_gguf` do."""
    if is_gguf(wanted.out):
        from pruning.export.gguf_pipeline import export_gguf

        return export_gguf(wanted)
    return export(wanted)


def main() -> None:
    """The entry point of `python -m pruning.export` and of `depth-pruning-export`."""
    with guarded():
        _run()


def _run() -> None:
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pruning").setLevel(logging.INFO)
    wanted = request.parse(sys.argv[1:])
    print(summary(written(wanted), wanted.out))  # noqa: T201 - the command's output
