"""What the units of a model cost: their parameters, or the time that they take, which is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from filelock import FileLock

from pruning.core import atomic_files
from pruning.core.hashing import digest
from pruning.core.space import Space
from pruning.distributed import collectives
from pruning.evaluation.speed import machine
from pruning.models.units import find_chain

if TYPE_CHECKING:
    from pruning.models.loader import LanguageModel
    from pruning.runs.cell import Cell


def cell_space(cell: Cell, model: LanguageModel) -> Space:
    """The space of a cell on a loaded model.

    Raises UnskippableError if its blocks cannot be divided into the cell's units, InputError if the ratio cannot be
    reached, and OutOfReachError if the search would need too many losses.
    """
    removal = cell.removal
    chain = find_chain(model.module, removal.mask_unit)
    costs: Sequence[float] | None = None
    if not removal.counted:
        costs = chain.sizes() if removal.budget == "parameters" else _times(cell, model)
    space = removal.space(model.info.n_blocks, costs)
    cell.algo.evaluations(space)  # raises OutOfReachError
    return space


def _times(cell: Cell, model: LanguageModel) -> list[float]:
    """The seconds of each unit on this device, from `latency/` in the results folder, or measured and kept there."""
    from pruning.engine.unit_times import unit_times
    from pruning.models.float32_products import native_products

    shape = cell.latency

    def table() -> list[float]:
        what = {"model": cell.weights(), "unit": cell.removal.mask_unit, "device": machine()}
        what |= {"latency": asdict(shape), "revision": model.info.revision}
        path = cell.results / "latency" / f"{digest(what)}.json"
        lock = path.parent / ".locks" / path.name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # cells that start together use one measurement
            if not path.exists():
                with native_products(model.module):  # as in the programs that will run the pruned model
                    seconds = unit_times(
                        model, cell.removal.mask_unit, (shape.batch, shape.tokens), shape.repeats
                    )
                atomic_files.write_json(path, what | {"seconds": seconds})
        return list(map(float, atomic_files.read_json(path)["seconds"]))

    return collectives.on_first(table)
