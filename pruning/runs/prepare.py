"""Check a cell and draw its data, before any weights are loaded."""

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
from pruning.models import loader, preflight, spec
from pruning.runs.cell import Cell, settings_record
from pruning.search import budget


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is valid, with its search space, samples and evaluation data. No weights are loaded."""

    cell: Cell
    space: Space
    samples: Samples
    data: Mapping[str, Data]


def check_cell(cell: Cell) -> None:
    """Check everything that can be checked without data and without a model.

    Raises InputError if the cell is invalid, ForeignError if its folder contains the result of another
    configuration.
    """
    mask.check_size(cell.ratio, cell.k)
    budget.check_budget(cell.algo)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


def prepare(cell: Cell) -> Prepared:
    """Check the model, and draw the samples and the evaluation data.

    Checks the model's configuration and files, its vocabulary, the search space, the lengths of the rows, and that
    the samples and the evaluation data do not overlap.

    Raises InputError if the input is invalid, UnreachableError if a model or data set cannot be loaded.
    """
    preflight.check_model(cell.model)
    preflight.warn_about_export(cell.model)
    protect = cell.protect
    space = mask.space(loader.n_blocks(cell.model), cell.ratio, cell.k, protect.first, protect.last)
    cell.algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    samples = _draw(cast(Hashable, cell.calibration), cell.model)
    data = _evaluation_data(cell.evaluation, cell.model)
    drawn: dict[str, Any] = {"the calibration data": samples}
    drawn |= {f"the data of {name}": evaluated for name, evaluated in data.items()}
    lengths = {label: getattr(rows, "length", 0) for label, rows in drawn.items()}
    check_lengths(cell.model.name, loader.context_length(cell.model), lengths)
    preflight.check_vocabulary(cell.model, {label: _largest_id(rows) for label, rows in drawn.items()})
    if not cell.evaluation.allow_overlap:
        check_disjoint(samples, data)
    return Prepared(cell, space, samples, data)


def _largest_id(drawn: Any) -> int:
    """The largest token id of samples; 0 for data that are not token rows, such as the documents of lm-eval."""
    return max(max(row.input_ids) for row in drawn.rows) if isinstance(drawn, Samples) else 0


def check_lengths(model: str, most: int | None, lengths: Mapping[str, int]) -> None:
    """Raise InputError if a row has more than `most` tokens, the model's limit (None: the limit is unknown).

    Data of lm-eval's tasks are not checked, since lm-eval shortens long rows.
    """
    for label, length in lengths.items():
        if most is not None and length > most:
            raise InputError(
                f"{label} have rows of {length} tokens, and {model} reads at most {most}: lower "
                "calibration.length, or the evaluation's window or prompts."
            )


@lru_cache(maxsize=16)
def _draw(calibration: Hashable, model: spec.Model) -> Samples:
    """The samples of a calibration, in random order, drawn once for all cells with the same settings."""
    return cast(Calibration, calibration).draw(loader.tokenizer(model)).shuffled()


_data: dict[tuple[str, spec.Model], Mapping[str, Data]] = {}


def _evaluation_data(evaluation: Evaluation, model: spec.Model) -> Mapping[str, Data]:
    """The evaluation data, drawn once for all cells with the same settings and files."""
    key = (digest([settings_record(evaluation), digests_of(evaluation.files())]), model)
    if key not in _data:
        if len(_data) >= 16:
            del _data[next(iter(_data))]
        _data[key] = evaluation.data(loader.tokenizer(model))
    return _data[key]
