"""Cut the blocks of a mask out of a GGUF file, and prove that the smaller file equals the masked model.

python -m pruning.export CELL_OR_MASK out=FILE.gguf
python -m pruning.export --drop 3,7,12 out=FILE.gguf model=local model.path=MODEL.gguf

No weight is dequantised: tensors are copied byte by byte under new numbers. The proof is made by transformers, which
loads both files and dequantises them in the same way.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core import atomic_files
from pruning.core.errors import InputError
from pruning.core.hashing import file_sha256
from pruning.core.mask import Mask
from pruning.core.units import bytes_text
from pruning.export import facts, gguf_card
from pruning.export.gguf_source import CONVERT, find_gguf
from pruning.export.gguf_target import card_of, check_gguf_target, sealed
from pruning.export.model_card import Facts, Sizes, model_card
from pruning.export.output_dir import check_place, check_space, staging_directory
from pruning.export.parts_text import noun
from pruning.export.request import Request
from pruning.export.settle import settled
from pruning.gguf.container import GgufFile, open_gguf
from pruning.gguf.cut import GgufCut, plan_gguf, size_of, write_gguf
from pruning.models.model_name import directory_name

if TYPE_CHECKING:
    from pruning.export.gguf_changes import Changes
    from pruning.export.verify import Expected
    from pruning.models.spec import Model

log = logging.getLogger(__name__)

UNPROVEN = "not compared with the masked model (verify=false)"


def export_gguf(wanted: Request) -> Facts:
    """Write the file `wanted.out` and its card beside it; the file is put in place as a whole, or not at all.

    If the request cannot be met, raises InputError, UnreachableError or UnskippableError before anything is written.
    Raises MismatchError if the written file does not give the logits of the masked model.
    """
    wanted = settled(wanted)
    _check_request(wanted)
    check_place(wanted.out, wanted.model)
    source = find_gguf(wanted.model)
    cut = _planned(wanted, source.path)
    changes, goal = _computed(wanted, cut, source.settings)
    cut = dataclasses.replace(cut, changes=changes.tensors)
    with staging_directory(wanted.out) as partial:
        written = partial / wanted.out.name
        log.info("writing %s", bytes_text(size_of(cut)))
        _write(cut, written)
        proof, moved = _proven(written, goal, source.settings, wanted, changes.tolerance)
        check_gguf_target(wanted.out, cut.record, wanted.force)  # it can have changed meanwhile
        digest, replaced = file_sha256(written), file_sha256(wanted.out) if wanted.out.exists() else None
        found = _facts(wanted, cut, changes, proof)
        card = model_card(gguf_card.with_use(found, wanted.out, digest, cut, moved))
        # The card names both files for a moment, so a kill between the steps does not look like a change by hand.
        atomic_files.write_text(card_of(wanted.out), sealed(card, digest, replaced))
        written.replace(wanted.out)
        if replaced is not None:
            atomic_files.write_text(card_of(wanted.out), sealed(card, digest))
    return found


def _planned(wanted: Request, path: Path) -> GgufCut:
    """The plan for the smaller file; no weights are read."""
    if wanted.out == path.resolve():
        raise InputError(f"out={wanted.out} is the file that is to be cut: choose another file.")
    record = _record(wanted, path)
    cut = plan_gguf(open_gguf(path), Mask(wanted.mask.n_blocks, wanted.mask.gone), record)
    check_gguf_target(wanted.out, record, wanted.force)
    check_space(wanted.out, size_of(cut))
    return cut


def _proven(
    written: Path, goal: Expected | None, settings: Model, wanted: Request, tolerance: float
) -> tuple[str, bool]:
    """How a written file was checked, and whether transformers' rule for the kinds of blocks no longer holds."""
    from pruning.export.gguf_proof import prove

    if goal is None:
        return UNPROVEN, False
    log.info("reloading and comparing")
    return prove(written, goal, settings, wanted, tolerance)


def _check_request(wanted: Request) -> None:
    mask = wanted.mask
    if not mask.dropped or not mask.kept:
        raise InputError(
            f"{len(mask.dropped)} of {mask.n_units} {noun(mask)} removed leaves nothing to export: drop 1 to "
            f"{mask.n_units - 1}."
        )
    if wanted.healed is not None:
        raise InputError(f"healed=true changes all weights of a model, and {CONVERT}.")


def _record(wanted: Request, path: Path) -> dict[str, Any]:
    """What the file says about itself; an earlier file is replaced only if it says the same."""
    changes: Any = None if wanted.scales is None else list(wanted.scales)
    if wanted.repair is not None:
        changes = {"repair": wanted.repair.sha256}
    mask: Mapping[str, Any] = wanted.mask.to_json()
    return {"mask": mask, "source_sha256": file_sha256(path), "compensation": changes}


def _computed(wanted: Request, cut: GgufCut, settings: Model) -> tuple[Changes, Expected | None]:
    """The changes of tensors, and the logits that the written file must give (None with verify=false).

    `settings` load the whole file with transformers; that is done only if one of the two needs it.
    """
    from pruning.export import gguf_changes, verify
    from pruning.export.gguf_names import WeightNames
    from pruning.export.gguf_proof import load_dense
    from pruning.export.zeroed_parts import parts
    from pruning.models.repaired_weights import replaced

    removed, changes = parts(wanted.mask), gguf_changes.Changes()
    if not wanted.verify and not removed and wanted.repair is None and wanted.scales is None:
        return changes, None
    model, names = load_dense(settings), WeightNames(cut.file)
    if wanted.scales is not None:
        changes = gguf_changes.scaled(names, model, cut.mask, wanted.scales)
    if wanted.repair is not None:
        changes = gguf_changes.repaired(names, model, wanted.repair)
    if removed:
        zeros = gguf_changes.zeros(names, model, removed)
        changes = dataclasses.replace(changes, tensors={**changes.tensors, **zeros.tensors}, idle=zeros.idle)
    with replaced(model, changes.weights):
        return changes, verify.expected(model, wanted.mask, wanted.scales) if wanted.verify else None


def _write(cut: GgufCut, path: Path) -> None:
    with path.open("wb") as stream:
        write_gguf(cut, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _facts(wanted: Request, cut: GgufCut, changes: Changes, proof: str) -> Facts:
    file, kept = cut.file, cut.kept
    return facts.facts(
        wanted,
        source=f"the GGUF file of the SHA-256 `{cut.record['source_sha256'][:16]}` ({directory_name(file.path)})",
        dtype=", ".join(
            dict.fromkeys(tensor.kind_name for tensor in sorted(kept, key=lambda t: -len(t.data)))
        ),
        hybrid=False,
        sizes=_sizes(file, cut),
        idle=changes.idle,
        proof=proof,
        inherited={"license": licence} if (licence := file.value("general.license")) else {},
        library="gguf",
    )


def _sizes(file: GgufFile, cut: GgufCut) -> Sizes:
    before, after = (sum(tensor.parameters for tensor in tensors) for tensors in (file.tensors, cut.kept))
    return Sizes(before, after, *(sum(len(t.data) for t in tensors) for tensors in (file.tensors, cut.kept)))
