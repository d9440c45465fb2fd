"""Write a checkpoint without the removed blocks, and prove that it equals the masked model.

python -m pruning.export CELL_OR_MASK out=DIR                  a finished cell's folder, or a mask.json and model=NAME
python -m pruning.export --drop 3,7,12 out=DIR model=local model.path=MODEL
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pruning.core.command import guarded
from pruning.core.heal_record import HealRecord
from pruning.core.pages import prepare_process
from pruning.core.recorded import CLASS
from pruning.core.result import DoneResult
from pruning.core.units import bytes_text
from pruning.export import metric_text, model_card, request
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
from pruning.models import checkpoint, directory, model_name, spec
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
    check_same(wanted.out, earlier, identity, wanted.force)
    check_space(wanted.out, cut.sizes.bytes)
    wanted = dataclasses.replace(wanted, model=cut.source.settings)
    model, proof = None, UNPROVEN
    healed = None if wanted.healed is None else load_healed(wanted.healed, _heal_record(wanted))
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
    with staging_directory(wanted.out) as partial:
        log.info("writing %s", bytes_text(cut.sizes.bytes))
        digests = write_shards(tensors, cut.plan, partial, wanted.max_shard_size)
        cut.source.copy_beside(partial, model)
        write_config(cut.config, partial)
        del tensors, model
        if goal is not None:
            log.info("reloading and comparing")
            of = verify.MASKED if wanted.repair is None else verify.REPAIRED
            proof = str(verify.compare_export(partial, goal, wanted.model, wanted.scales is None, of))
        facts = _facts(wanted, cut, proof)
        _write_texts(facts, partial)
        write_record(partial, {**_record(wanted, facts), **identity}, digests)
        put_in_place(
            partial, wanted.out, earlier, lambda now: check_same(wanted.out, now, identity, wanted.force)
        )
    return facts


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
    healed = None if wanted.healed is None else _heal_record(wanted)["weights_sha256"]
    return {
        "mask": wanted.mask.to_json(),
        "model": weights,
        "precision": settings.dtype,
        "compensation": changes,
        "healed": healed,
    }


def _heal_record(wanted: Request) -> HealRecord:
    """How the cell of a request was healed; `request.py` has checked that it was."""
    assert wanted.result is not None
    return wanted.result["heal"]


def _facts(wanted: Request, cut: Cut, proof: str) -> Facts:
    settings, mask = wanted.model, wanted.mask
    hub = {"hub": (settings.path, None), "packaged": model_card.PACKAGED.get(settings.path)}.get(
        settings.source
    )
    base = wanted.in_memory or (
        hub[0] if hub and not settings.in_directory else model_name.directory_name(settings.location)
    )
    text = cut.source.config.get_text_config(decoder=True)
    return Facts(
        name=f"{base.rpartition('/')[2]}-{len(mask.kept)}-of-{mask.n_units}-{noun(mask).replace('-', '')}",
        base=base,
        source=_source(settings) if wanted.in_memory is None else "a model in memory",
        dtype=settings.dtype,
        hybrid=len(set(getattr(text, "layer_types", None) or ())) > 1,
        mask=mask,
        sizes=cut.sizes,
        idle=cut.idle,
        commands=_commands(wanted),
        proof=proof,
        result=wanted.result,
        scales=wanted.scales,
        repair=None if wanted.repair is None else wanted.repair.names(),
        inherited=model_card.inherit(cut.source.folder),
        healed=None if wanted.healed is None else _heal_record(wanted),
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


def _commands(wanted: Request) -> list[str]:
    """Commands that search, evaluate and export again, and one that makes the same cut without a search."""
    import shlex

    from pruning.hydra_app.replay_command import launch_words

    model = {CLASS: "Model", **portable(dataclasses.asdict(wanted.model))}
    drop = ",".join(wanted.mask.names())
    if wanted.in_memory is not None:
        return [f"pruning.export_model(model, {wanted.mask!r}, DIR)  # in Python"]
    words = ["python", "-m", "pruning.export", "--drop", drop, *launch_words({"model": model}), "out=DIR"]
    cut = (
        [shlex.join(words)]
        if wanted.scales is None and wanted.repair is None and wanted.healed is None
        else []
    )
    if wanted.result is None:
        return cut
    launches = [
        ["python", "launch.py", *launch_words(portable(config))] for config in _evaluated(wanted.result)
    ]
    if wanted.healed is not None:
        end = [*map(shlex.join, launches), "python -m pruning.export CELL out=DIR healed=true"]
        return [*end, *cut]
    return [*map(shlex.join, launches[:-1]), shlex.join([*launches[-1], "export=DIR"]), *cut]


def _evaluated(result: DoneResult) -> list[Mapping[str, Any]]:
    """For each evaluation that added metrics, the result's configuration with that evaluation; the latest is last."""
    config = result["config"]
    settings = [*result["evaluation"].get("settings", {}).values(), config["eval"]]
    distinct = {json.dumps(evaluation, sort_keys=True): evaluation for evaluation in reversed(settings)}
    return [{**config, "eval": evaluation} for evaluation in reversed(distinct.values())]


def _write_texts(facts: Facts, folder: Path) -> None:
    (folder / "README.md").write_text(model_card.model_card(facts), encoding="utf-8")
    if facts.mask.unit == "block":  # mergekit copies whole layers
        (folder / "mergekit.yaml").write_text(mergekit(facts), encoding="utf-8")


def _record(wanted: Request, facts: Facts) -> dict[str, Any]:
    """What the record says about the export, besides its identity."""
    return {
        "cell": wanted.cell,
        "settings": portable(dataclasses.asdict(wanted.model) | {"path": facts.base}),
        "sizes": dataclasses.asdict(facts.sizes),
        "proof": facts.proof,
        **({} if facts.repair is None else {"repaired": list(facts.repair)}),
        **({"form": wanted.form, "idle_parameters": facts.idle} if facts.mask.unit == "sublayer" else {}),
    }


def summary(facts: Facts, out: Path) -> str:
    """Three lines: the change of the metrics, the reduction in size with the speedup, and the model's directory."""
    which: Literal["pruned", "healed"] = "pruned" if facts.healed is None else "healed"
    lost = ", ".join(f"{name} {a} -> {b}" for name, a, b in metric_text.metrics(facts.result, which))
    sizes, mask = facts.sizes, facts.mask
    used, in_use = sizes.parameters - facts.idle, " in use" if facts.idle else ""
    fewer = 1 - used / sizes.dense_parameters
    return "\n".join(
        [
            f"lost    {lost or f'not measured: {metric_text.unmeasured(facts.result)}'}",
            f"gained  {len(mask.dropped)} of {mask.n_units} {noun(mask)} removed ({' '.join(mask.names())}), "
            f"{sizes.dense_parameters:,} -> {used:,} parameters{in_use} ({fewer:.1%} fewer), "
            f"{bytes_text(sizes.dense_bytes)} -> {bytes_text(sizes.bytes)} in {facts.dtype}"
            + metric_text.speedup_text(facts.result),
            f"model   {out} ({facts.proof})",
        ]
    )


def export_cell(folder: Path, out: Path, healed: bool = False) -> str:
    """Export a finished cell, or its healed model; returns the three lines of `summary`. Raises as `export` does."""
    wanted = request.of_cell(folder, output_directory(out))
    if healed:
        wanted = request.of_healed(folder, wanted)
    return summary(export(wanted), wanted.out)


def main() -> None:
    """The entry point of `python -m pruning.export` and of `depth-pruning-export`."""
    with guarded():
        _run()


def _run() -> None:
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pruning").setLevel(logging.INFO)
    wanted = request.parse(sys.argv[1:])
    print(summary(export(wanted), wanted.out))  # noqa: T201 - the command's output
