"""Everything that can be checked of a cell before weights are loaded, and the data that it needs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pruning import budget, mask, models
from pruning.calibration import Calibration
from pruning.calibration.samples import Samples
from pruning.calibration.sources import existing
from pruning.cell import Cell, described, digest
from pruning.errors import InputError
from pruning.evaluation import Data, Evaluation, digests_of
from pruning.evaluation.overlap import check_disjoint
from pruning.mask import Space


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is known to be good: its space and its samples. No weights are loaded for this."""

    cell: Cell
    space: Space
    samples: Samples
    data: Mapping[str, Data]


def check(cell: Cell) -> None:
    """Raise InputError for what is wrong with a cell and can be seen without any data or model."""
    needs = cell.objective.needs
    if cell.calibration.kind not in (("text", "items") if needs == "any" else (needs,)):
        from pruning.config import calibrations

        fitting = ", ".join(calibrations(needs))
        raise InputError(
            f"objective={cell.choices.objective} needs {needs}, and calibration="
            f"{cell.choices.calibration} gives {cell.calibration.kind}. Calibrations that fit: {fitting}."
        )
    mask.check_size(cell.ratio, cell.k)
    budget.check(cell.algo)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


def prepare(cell: Cell) -> Prepared:
    """Draw the samples and check them against the model's shape, its tokenizer and the evaluation data.

    Raises InputError for bad input, UnreachableError where a model or data set cannot be had.
    """
    protect = cell.protect
    space = mask.space(models.n_blocks(cell.model), cell.ratio, cell.k, protect.first, protect.last)
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
    most = models.positions(cell.model)
    for what, one in data.items():
        if most is not None and (length := getattr(one, "length", 0)) > most:
            raise InputError(
                f"{what} have rows of {length} tokens, and {cell.model.name} reads at most {most}: lower "
                "calibration.length, or the evaluation's window or prompts."
            )


@lru_cache(maxsize=16)
def _draw(calibration: Hashable, model: models.Model) -> Samples:
    """The samples of frozen settings, in random order, drawn once for all cells that share them."""
    return cast(Calibration, calibration).draw(models.tokenizer(model)).shuffled()


_data: dict[tuple[str, models.Model], Mapping[str, Data]] = {}


def _evaluation_data(evaluation: Evaluation, model: models.Model) -> Mapping[str, Data]:
    """The evaluation data, likewise."""
    key = (digest([described(evaluation), digests_of(evaluation.files())]), model)
    if key not in _data:
        if len(_data) >= 16:
            del _data[next(iter(_data))]
        _data[key] = evaluation.data(models.tokenizer(model))
    return _data[key]
