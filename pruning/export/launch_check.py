"""Check before the search of a launch that the export at its end is possible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import DoneResult, same_settings
from pruning.engine.compensation import Linear, Magnitude
from pruning.export.gguf_export import check_gguf_target, find_gguf
from pruning.export.output_dir import check_place, check_same, check_target
from pruning.export.plan import SANDWICHED, check_fold
from pruning.export.request import is_gguf
from pruning.models.gguf import DTYPES, Stored, check_known, dtype_of, open_gguf
from pruning.runs.cell import Cell

UNKNOWN = "not known yet"  # differs from every recorded value
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
    out = cell.export
    if isinstance(cell.compensation, Magnitude) and cell.removal.mask_unit != "block":
        raise InputError(
            "compensation=magnitude of sub-layers cannot be exported, because its factors would have to be folded "
            "into every later sub-layer: choose compensation=none or linear, or unit=block."
        )
    check_place(out, cell.model, cell.results)
    result = cell.result()
    done = result if result is not None and result["status"] == "done" else None
    mask = None if done is None else _exported(done["mask"])
    if is_gguf(out):
        _check_file(cell, out, mask)
    elif cell.results.is_relative_to(out):
        raise InputError(
            f"export={out} contains the results folder {cell.results}: choose another directory."
        )
    elif (earlier := check_target(out)) is not None:
        # A refusal after the training would waste it.
        known = _expected_record(cell, done, own=earlier.record.get("cell") == cell.key)
        check_same(out, earlier.record, known, force=False, launched=cell.key)
    if isinstance(cell.compensation, Magnitude):
        check_fold(cell.model, mask or _earliest(cell))


def _exported(record: Any) -> Mask:
    """A recorded mask as an export records it: over blocks, if it removes whole blocks."""
    mask = Mask.from_json(record)
    return mask.as_blocks() or mask


def _earliest(cell: Cell) -> Mask:
    """The mask that drops the first block that may be removed: no other block has as many blocks after it."""
    count = cell.model.n_blocks
    return Mask(count, (min(cell.protect.first, count - 1),))


def _expected_record(cell: Cell, done: DoneResult | None, own: bool) -> dict[str, Any]:
    """What is known of the new record, and `UNKNOWN` for a mask or a healing that can still become another one.

    `own` says whether the earlier export is one of this cell. Searching the cell again gives its mask again, so
    without a result the mask is left out.
    """
    heal = None if done is None else done.get("heal")

    def healed_alike(**ignored: None) -> bool:
        """Whether the result was healed with the settings of the cell, apart from those that are `ignored`."""
        assert done is not None
        settings = ({**config.get("heal", {}), **ignored} for config in (done["config"], cell.config))
        return heal is not None and same_settings(*settings)

    known: dict[str, Any] = {"precision": cell.model.dtype, "healed": None}
    if cell.heal.trains:
        known["healed"] = heal["weights_sha256"] if heal is not None and healed_alike() else UNKNOWN
    if cell.model.source != "hub":  # the commit of a hub model is known only when it is loaded
        known["model"] = {"source": cell.model.source, "revision": cell.model.recorded_revision}
    if done is None:
        return known if own else known | {"mask": UNKNOWN}
    found: Any = done["mask"]
    if getattr(cell.heal, "candidates", 1) > 1:
        # The selection does not depend on the budget of the healing that follows it.
        chosen = None if heal is None else heal.get("selection")
        found = chosen["mask"] if chosen is not None and healed_alike(tokens=None) else None
    return known | {"mask": UNKNOWN if found is None else _exported(found).to_json()}


def _check_file(cell: Cell, out: Path, mask: Mask | None) -> None:
    """Raise InputError if a GGUF file cannot be written, or cannot take the changes of weights."""
    if cell.heal.trains:
        raise InputError(
            f"healing changes all weights, which cannot be written into the tensors of {out}: choose "
            "heal=none, or export a directory (export=DIR) and convert it (docs/gguf.md)."
        )
    check_gguf_target(out, {"mask": UNKNOWN if mask is None else mask.to_json()}, force=False)
    check_known(file := open_gguf(find_gguf(cell.model)[0]))
    names = NORMS if file.architecture in SANDWICHED else OUTPUTS
    last = [tensor for tensor in file.tensors.values() if tensor.name.endswith(names)]
    refused: Sequence[Stored] = [tensor for tensor in last if tensor.kind not in DTYPES]
    if isinstance(cell.compensation, Magnitude):
        # All kept blocks after the first removed one get a factor.
        dropped = (mask or _earliest(cell)).dropped
        first = min(dropped, default=0)
        refused = [t for t in refused if first < (t.block or 0) and t.block not in dropped]
    elif not isinstance(cell.compensation, Linear) or len(refused) < len(last):
        refused = []  # which blocks get a map depends on the mask, and some block can take one
    if refused:
        dtype_of(refused[0])  # raises InputError
