"""Everything that can be checked of a cell before weights are loaded, and the data that it needs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pruning.calibration import Calibration
from pruning.calibration.records import existing
from pruning.calibration.samples import Samples
from pruning.core import mask
from pruning.core.errors import InputError
from pruning.core.hashing import digest
from pruning.core.mask import Space
from pruning.evaluation import Data, Evaluation, digests_of
from pruning.evaluation.overlap import check_disjoint
from pruning.models import loader, spec
from pruning.runs.cell import Cell, settings_record
from pruning.search import budget


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is known to be good: its space and its samples. No weights are loaded for this."""

    cell: Cell
    space: Space
    samples: Samples
    data: Mapping[str, Data]


def check_cell(cell: Cell) -> None:
    """Raise InputError for what is wrong with a cell and can be seen without any data or model."""
    mask.check_size(cell.ratio, cell.k)
    budget.check_budget(cell.algo)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


def prepare(cell: Cell) -> Prepared:
    """Draw the samples and check them against the model's shape, its tokenizer and the evaluation data.

    Raises InputError for bad input, UnreachableError where a model or data set cannot be had.
    """
    protect = cell.protect
    space = mask.space(loader.n_blocks(cell.model), cell.ratio, cell.k, protect.first, protect.last)
    cell.algo.evaluations(space)  # raises where the search is out of reach
    samples = _draw(cast(Hashable, cell.calibration), cell.model)
    data = _evaluation_data(cell.evaluation, cell.model)
    _check_lengths(
        cell, {"the calibration data": samples, **{f"the data of {name}": one for name, one in data.items()}}
    )
    if not cell.evaluation.allow_overlap:
        check_disjoint(samples, data)
    return Prepared(cell, space, samples, data)


def _check_lengths(cell: Cell, data: Mapping[str, Any]) -> None:
    """Raise InputError for rows longer than the model can read; lm-eval shortens those of tasks by itself."""
    most = loader.context_length(cell.model)
    for what, one in data.items():
        if most is not None and (length := getattr(one, "length", 0)) > most:
            raise InputError(
                f"{what} have rows of {length} tokens, and {cell.model.name} reads at most {most}: lower "
                "calibration.length, or the evaluation's window or prompts."
            )


@lru_cache(maxsize=16)
def _draw(calibration: Hashable, model: spec.Model) -> Samples:
    """The samples of frozen settings, in random order, drawn once for all cells that share them."""
    return cast(Calibration, calibration).draw(loader.tokenizer(model)).shuffled()


_data: dict[tuple[str, spec.Model], Mapping[str, Data]] = {}


def _evaluation_data(evaluation: Evaluation, model: spec.Model) -> Mapping[str, Data]:
    """The evaluation data, likewise."""
    key = (digest([settings_record(evaluation), digests_of(evaluation.files())]), model)
    if key not in _data:
        if len(_data) >= 16:
            del _data[next(iter(_data))]
        _data[key] = evaluation.data(loader.tokenizer(model))
    return _data[key]
