"""What the export of a cell will record, as far as it is known before the cell is searched and trained."""

from __future__ import annotations

from typing import Any

from pruning.core.mask import Mask
from pruning.core.recorded import same_settings
from pruning.core.result import DoneResult
from pruning.models import checkpoint
from pruning.runs.cell import Cell

UNKNOWN = "not known yet"  # differs from every recorded value


def expected_record(cell: Cell, own: bool) -> dict[str, Any]:
    """The known entries of the record, and `UNKNOWN` for a mask or a healing that can still become another one.

    `own` says whether the earlier export is one of this cell. Searching the cell again gives its mask again, so
    without a result the mask is left out.
    """
    result = finished(cell)
    known: dict[str, Any] = {"precision": cell.model.dtype, "healed": _healed(cell, result)}
    if cell.model.source != "hub":  # the commit of a hub model is known only when it is loaded
        known["model"] = {"source": cell.model.source, "revision": checkpoint.revision(cell.model)}
    if result is not None or not own:
        known["mask"] = UNKNOWN if result is None else _mask(cell, result)
    return known


def finished(cell: Cell) -> DoneResult | None:
    """The result of a cell whose search is finished."""
    result = cell.result()
    return result if result is not None and result["status"] == "done" else None


def exported(record: Any) -> Mask:
    """A recorded mask as an export records it: over blocks, if it removes whole blocks."""
    mask = Mask.from_json(record)
    return mask.as_blocks() or mask


def _mask(cell: Cell, result: DoneResult) -> Any:
    """The mask in the form of an export's record."""
    found: Any = result["mask"]
    if getattr(cell.heal, "candidates", 1) > 1:
        # The selection does not depend on the budget of the healing that follows it.
        selected = result["heal"].get("selection") if "heal" in result else None
        if selected is None or not _same_healing(cell, result, tokens=None):
            return UNKNOWN
        found = selected["mask"]
    return exported(found).to_json()


def _healed(cell: Cell, result: DoneResult | None) -> str | None:
    """The digest of the healed weights; None without a healing."""
    if not cell.heal.trains:
        return None
    if result is None or "heal" not in result or not _same_healing(cell, result):
        return UNKNOWN
    return result["heal"]["weights_sha256"]


def _same_healing(cell: Cell, result: DoneResult, **ignored: None) -> bool:
    """Whether a result was healed with the settings of the cell, apart from those that are `ignored`."""
    before, wanted = ({**config.get("heal", {}), **ignored} for config in (result["config"], cell.config))
    return same_settings(before, wanted)
