"""Check before the search of a launch that the export at its end is possible."""

from __future__ import annotations

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.compensation import Magnitude, NoCompensation
from pruning.export.gguf_export import check_gguf_target, find_gguf
from pruning.export.output_dir import check_place, check_target
from pruning.export.request import FACTORS, is_gguf
from pruning.models.gguf import check_known, open_gguf
from pruning.runs.cell import Cell


def check_export(cell: Cell) -> None:
    """Raise InputError if a cell's search would end without the directory or the GGUF file that it asks for.

    An earlier directory, which names its cell, may be replaced only if it is this one. Before the search the mask is
    unknown, so an earlier file may be replaced only if the cell is finished and has its mask.
    """
    assert cell.export is not None
    out = cell.export
    if isinstance(cell.compensation, Magnitude):
        raise InputError(f"export={out}: {FACTORS}")
    check_place(out, cell.model)
    if is_gguf(out):
        if cell.heal.trains or not isinstance(cell.compensation, NoCompensation):
            changing = "healing" if cell.heal.trains else "a compensation"
            raise InputError(
                f"{changing} changes weights, and the tensors of {out} are copies: choose heal=none "
                "compensation=none, or export a directory (export=DIR) and convert it (docs/gguf.md)."
            )
        mask = None if (done := cell.done()) is None else Mask.from_json(done["mask"])
        mask = mask and (mask.as_blocks() or mask)  # as an export records it
        check_gguf_target(out, {"mask": None if mask is None else mask.to_json()})
        check_known(open_gguf(find_gguf(cell.model)[0]))
    elif cell.results.is_relative_to(out):
        raise InputError(
            f"export={out} contains the results folder {cell.results}: choose another directory."
        )
    elif (earlier := check_target(out)) is not None and earlier.get("cell") != cell.key:
        raise InputError(
            f"export={out} holds an export that is not of this cell: choose another directory, or remove this one."
        )
