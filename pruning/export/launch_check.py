"""Check before the search of a launch that the export at its end is possible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.compensation import Linear, Magnitude
from pruning.export.gguf_export import check_gguf_target, is_gguf
from pruning.export.output_dir import check_place, check_same, check_target, written_by
from pruning.export.plan import SANDWICHED, check_fold
from pruning.export.request import UNKNOWN, expected_record, exported, finished
from pruning.models.gguf import DTYPES, Stored, dtype_of, open_gguf
from pruning.runs.cell import Cell

# Endings of the tensors of a GGUF file into which a compensation is folded. Gemma has norms after the sub-layers,
# which are F32 in quantised files too.
OUTPUTS = ("attn_output.weight", "ffn_down.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight")
NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")


def check_export(cell: Cell) -> None:
    """Raise InputError if a cell's search would end without the directory or the GGUF file that it asks for.

    Before the search the mask is unknown, so an earlier file may be replaced only if the cell is finished and has its
    mask, and an earlier directory, which names its cell, only if the same cell made it as well.
    """
    assert cell.export is not None
    if isinstance(cell.compensation, Magnitude) and cell.removal.mask_unit != "block":
        raise InputError(
            "compensation=magnitude of sub-layers cannot be exported, because its factors would have to be folded "
            "into every later sub-layer: choose compensation=none or linear, or unit=block."
        )
    check_place(cell.export, cell.model, cell.results)
    result = finished(cell)
    mask = None if result is None else exported(result["mask"])
    if is_gguf(cell.export):
        _check_file(cell, cell.export, mask)
    else:
        _check_directory(cell, cell.export)
    if isinstance(cell.compensation, Magnitude):
        check_fold(cell.model, mask or _earliest(cell))


def _earliest(cell: Cell) -> Mask:
    """The mask that drops the first block that may be removed: no other block has as many blocks after it."""
    count = cell.model.n_blocks
    return Mask(count, (min(cell.protect.first, count - 1),))


def _check_directory(cell: Cell, out: Path) -> None:
    """An earlier export must agree with all that is known of the new one: a refusal after the training wastes it."""
    if cell.results.is_relative_to(out):
        raise InputError(
            f"export={out} contains the results folder {cell.results}: choose another directory."
        )
    if (earlier := check_target(out)) is not None:
        known = expected_record(cell, own=written_by(earlier, cell.key))
        check_same(out, earlier, known, force=False, launched=cell.key)


def _check_file(cell: Cell, out: Path, mask: Mask | None) -> None:
    from pruning.export.gguf_export import find_gguf
    from pruning.models.gguf import check_known

    if cell.heal.trains:
        raise InputError(
            f"healing changes all weights, which cannot be written into the tensors of {out}: choose "
            "heal=none, or export a directory (export=DIR) and convert it (docs/gguf.md)."
        )
    check_gguf_target(out, {"mask": UNKNOWN if mask is None else mask.to_json()}, force=False)
    check_known(file := open_gguf(find_gguf(cell.model).path))
    names = NORMS if file.architecture in SANDWICHED else OUTPUTS
    _check_types(cell, [tensor for tensor in file.tensors if tensor.name.endswith(names)], mask)


def _check_types(cell: Cell, last: Sequence[Stored], mask: Mask | None) -> None:
    """Raise InputError if a compensation would change quantised tensors; `last` are those that it may change."""
    quantised = [tensor for tensor in last if tensor.kind not in DTYPES]
    if isinstance(cell.compensation, Magnitude):
        # All kept blocks after the first removed one get a factor.
        dropped = (mask or _earliest(cell)).dropped
        refused = [
            t for t in quantised if min(dropped, default=0) < (t.block or 0) and t.block not in dropped
        ]
    else:
        # Which blocks get a map depends on the mask, so a file is refused only if no block can take one.
        refused = quantised if isinstance(cell.compensation, Linear) and len(quantised) == len(last) else []
    if refused:
        dtype_of(refused[0])  # raises InputError
