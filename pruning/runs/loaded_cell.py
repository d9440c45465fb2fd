"""Load the model of a cell and set up its forward passes with the cell's settings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pruning.core import storage
from pruning.core.errors import DamagedError
from pruning.core.mask import Space
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.evaluation.speed import device_name
from pruning.models.placement import LanguageModel
from pruning.models.sublayers import find_chain
from pruning.runs.cell import Cell, ForwardSettings

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


def model_of(cell: Cell) -> LanguageModel:
    """The model of a cell, loaded once for consecutive cells with this model. Raises as `Model.load` does."""
    from pruning.engine.devices import exact

    exact()
    return cell.model.load()


def forward_of(cell: Cell, model: LanguageModel) -> Forward:
    """Forward passes of a model with a cell's settings."""
    return forward_with(cell.forward, model)


def forward_with(settings: ForwardSettings, model: LanguageModel) -> Forward:
    """Forward passes of a model with given settings."""
    from pruning.engine.devices import exact
    from pruning.engine.forward import Forward

    exact()
    return Forward(model, memory=settings.memory, compile=settings.compile, bounds=settings.bounds)


# What the units of a model cost: their parameters, or the time that they take, which is measured once.

NAME = "latency.json"  # in the folder of a cell: a search that resumes on another device keeps its costs
log = logging.getLogger(__name__)


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
    """The seconds of each unit: those that this cell began with, or else those of this device."""
    unit, here = cell.removal.mask_unit, device_name(model.module)

    def table() -> list[float]:
        begun = cell.folder / NAME
        if not begun.exists():
            storage.write_record(begun, _measured(cell, model, here))
        kept = storage.read_json(begun)
        if kept["device"] != here:
            log.warning(
                "%s began on %s, and this is %s: it goes on with the times of its units there.",
                *(cell.key, kept["device"], here),
            )
        seconds = list(map(float, kept["seconds"]))
        if len(seconds) != len(find_chain(model.module, unit)) or not all(0 < s < math.inf for s in seconds):
            raise DamagedError(f"{begun} is damaged (seconds={seconds}): move it away and run again.")
        return seconds

    return collectives.on_first(table)


def _measured(cell: Cell, model: LanguageModel, device: str) -> dict[str, Any]:
    """The times of the units on this device, from `latency/` in the results folder, or measured and kept there."""
    from pruning.engine.dense_pass import unit_times
    from pruning.models.products import native_products

    shape, unit = cell.latency, cell.removal.mask_unit
    what = {"model": cell.weights(), "unit": unit, "device": device, **cell.model.placement()}
    what |= {"latency": asdict(shape), "revision": model.info.revision}
    path = cell.results / "latency" / f"{digest(what)}.json"
    lock = path.parent / ".locks" / path.name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # cells that start together use one measurement
        if not path.exists():
            with native_products(model.module):  # as in the programs that will run the pruned model
                seconds = unit_times(model, unit, (shape.batch, shape.tokens), shape.repeats)
            storage.write_record(path, what | {"seconds": seconds})
    return dict(storage.read_json(path))
