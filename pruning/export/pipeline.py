"""Write a model without the removed blocks, and prove that it equals the masked model (`depth-pruning export`)."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.terminal import command_words, guarded
from pruning.core.units import bytes_text
from pruning.export import model_card, output_dir, request
from pruning.export.model_card import Facts
from pruning.export.request import FACTORS, Request, is_gguf
from pruning.models.handle import release
from pruning.models.kept_models import PACKAGED

if TYPE_CHECKING:
    from pruning.export.plan import Cut
    from pruning.runs.cell import Cell


log = logging.getLogger(__name__)


def main() -> None:
    """The entry point of `depth-pruning export`."""
    with guarded():
        wanted = request.parse(command_words())
        print(model_card.summary(written(wanted), wanted.out))  # noqa: T201 - the command's output


def export_cell(folder: Path, out: Path, healed: bool = False) -> str:
    """Export a finished cell, or its healed model, as a launch does; returns the three lines of `summary`."""
    # `force` is safe: the check before the search allows only an earlier export of this cell.
    wanted = dataclasses.replace(request.of_cell(folder, output_dir.directory(out)), force=True)
    if healed:
        wanted = request.of_healed(wanted)
    release()  # the cell's model: the export loads its own
    return model_card.summary(written(wanted), wanted.out)


def written(wanted: Request) -> Facts:
    """Write the requested directory or GGUF file. Raises the errors of `export` and `export_gguf`."""
    if is_gguf(wanted.out):
        from pruning.export.gguf_export import export_gguf

        return export_gguf(wanted)
    return export(wanted)


def export(wanted: Request) -> Facts:
    """Write the directory `wanted.out`. The last step replaces an earlier export, which is kept if any step fails.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    If the disk is full, raises InputError and leaves nothing behind. Raises MismatchError if the written model does
    not equal the masked model.
    """
    from pruning.export import checkpoint, plan, verify

    wanted = request.settled(wanted)
    output_dir.check_place(wanted.out, wanted.model)
    earlier = output_dir.check_target(wanted.out)
    cut = plan.plan_cut(wanted)
    wanted = dataclasses.replace(wanted, model=cut.settings)
    identity = _identity(wanted)
    output_dir.check_same(wanted.out, earlier, identity, wanted.force)
    output_dir.check_space(wanted.out, cut.sizes.bytes)
    cut, goal = plan.changed(wanted, cut)
    with output_dir.staging_directory(wanted.out) as staged:
        log.info("writing %s", bytes_text(cut.sizes.bytes))
        assert cut.tensors is not None
        checkpoint.write_shards(cut.tensors, cut.plan, staged)
        checkpoint.copy_beside(cut.folder, wanted.model, staged)
        checkpoint.write_config(cut.config, staged)
        # The weights are freed, so that they are not in memory twice when the written model is loaded.
        cut = dataclasses.replace(cut, tensors=None, plan=dataclasses.replace(cut.plan, values={}))
        proof = verify.UNPROVEN
        if goal is not None:
            log.info("reloading and comparing")
            proof = verify.compare_export(staged, goal, wanted.model)
        found = _facts(wanted, cut, proof)
        (staged / "README.md").write_text(model_card.model_card(found), encoding="utf-8")
        output_dir.write_record(staged, {**_record(wanted, found), **identity})
        # The target may have changed since the start.
        output_dir.check_same(wanted.out, output_dir.check_target(wanted.out), identity, wanted.force)
        storage.replace(staged, wanted.out)
    return found


def _identity(wanted: Request) -> dict[str, Any]:
    """The record entries that must equal an earlier export's so that it is replaced without `force`."""
    settings, heal = wanted.model, wanted.heal_record
    weights = {"source": settings.source, "revision": settings.recorded_revision}
    if settings.source == "hub":
        weights["path"] = settings.path
    return {
        "mask": wanted.mask.to_json(),
        "model": weights,
        "precision": settings.dtype,
        "compensation": None if wanted.repair is None else {"repair": wanted.repair.sha256},
        "healed": None if heal is None else heal["weights_sha256"],
    }


def _facts(wanted: Request, cut: Cut, proof: str) -> Facts:
    """The facts that the export's texts state; `proof` describes the comparison with the masked model."""
    settings = wanted.model
    if wanted.in_memory is not None:
        source = "a model in memory"
    elif settings.files is not None:
        kind = "a GGUF file" if settings.gguf_file else "a directory"
        source = f"{kind} of the digest `{settings.files.digest[:16]}`"
    else:
        source = f"{settings.origin} at {settings.revision}" if settings.revision else settings.origin
        if settings.source == "packaged":
            source += f", whose GGUF ({PACKAGED[settings.path].file}) is dequantised"
    if settings.copied_head is not None or (settings.source == "packaged" and PACKAGED[settings.path].tied):
        source += "; its output layer is a copy of the embedding up to rounding, so the two are tied"
    return model_card.facts(
        wanted,
        source=source,
        dtype=settings.dtype,
        sizes=cut.sizes,
        idle=cut.idle,
        proof=proof,
        inherited=model_card.inherit(cut.folder),
    )


def _record(wanted: Request, found: Facts) -> dict[str, Any]:
    """The entries of the record besides those of `_identity`."""
    return {
        "cell": wanted.cell,
        "settings": model_card.portable(dataclasses.asdict(wanted.model) | {"path": found.base}),
        "sizes": dataclasses.asdict(found.sizes),
        "proof": found.proof,
        **({} if found.repair is None else {"repaired": list(found.repair)}),
        **({"form": "zeros", "idle_parameters": found.idle} if found.mask.unit == "sublayer" else {}),
    }


# Before the search of a launch.


def check_export(cell: Cell) -> None:
    """Raise InputError if the export that a cell's configuration requests would fail after the search.

    An earlier directory may be replaced only if its record names this cell. An earlier GGUF file may be
    replaced only if the cell is finished and the mask that it found is the one in the file's record.
    """
    from pruning.engine.compensation import Magnitude, NoCompensation
    from pruning.export.gguf_export import check_gguf_target, find_gguf
    from pruning.models.gguf import check_known, open_gguf

    assert cell.command.export is not None
    out = cell.command.export
    if isinstance(cell.compensation, Magnitude):
        raise InputError(f"export={out}: {FACTORS}")
    output_dir.check_place(out, cell.model)
    if is_gguf(out):
        whole = cell.removal.mask_unit == "block"
        if cell.heal.trains or not isinstance(cell.compensation, NoCompensation) or not whole:
            raise InputError(
                f"the tensors of {out} are copies, so no weight may change: choose heal=none compensation=none "
                "unit=block, or export a directory (export=DIR) and convert it."
            )
        check_gguf_target(out, {"mask": None if (done := cell.done()) is None else done["mask"]})
        check_known(open_gguf(find_gguf(cell.model)[0]))
    elif cell.command.results.is_relative_to(out):
        raise InputError(
            f"export={out} contains the results folder {cell.command.results}: choose another directory."
        )
    elif (earlier := output_dir.check_target(out)) is not None and earlier.get("cell") != cell.key:
        raise InputError(
            f"export={out} holds an export that is not of this cell: choose another directory, or remove this one."
        )
