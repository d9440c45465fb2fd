"""The maps that repair the mask of a cell: measure them and keep them in the cell's folder, or read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruning.core.mask import Mask
from pruning.core.repair_record import RepairRecord, is_repaired
from pruning.core.result import DoneResult
from pruning.distributed import collectives
from pruning.engine.map_settings import Linear
from pruning.runs.cell import Cell
from pruning.runs.prepare import Prepared

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.repaired_weights import Repair


def check_repair(prepared: Prepared, forward: Forward, unit: str) -> None:
    """Raise InputError before a search if its mask could not be repaired as the cell asks for."""
    from pruning.engine.repair import check

    compensation = prepared.cell.compensation
    if isinstance(compensation, Linear):
        check(forward.model.module, compensation.form, unit, prepared.samples)


def new_repair(prepared: Prepared, forward: Forward, mask: Mask) -> tuple[Repair | None, RepairRecord] | None:
    """Measure and save the maps of a mask on the cell's samples; None if the cell asks for none.

    If no map helps, there is a record and no repair.
    """
    from pruning.engine.repair import measure

    cell = prepared.cell
    if not isinstance(cell.compensation, Linear):
        return None
    repair, record = measure(forward, prepared.samples, mask, cell.compensation)
    if collectives.is_first() and repair.maps:
        repair.save(cell.folder)
    return repair if repair.maps else None, record


def recorded_repair(cell: Cell, done: DoneResult) -> Repair | None:
    """The maps of a finished cell; None if it has none. Raises DamagedError if their file is missing or damaged."""
    from pruning.models.repaired_weights import read_repair

    if (record := done.get("repair")) is None or not is_repaired(record):
        return None
    return collectives.on_first(lambda: read_repair(cell.folder, record["sha256"]))
