"""Check a cell and draw its data, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pruning.algo import lazy
from pruning.calibration import Calibration
from pruning.calibration.records import existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import EMBEDDED
from pruning.core.errors import InputError
from pruning.core.hashing import digest
from pruning.core.space import Space
from pruning.engine.compensation import NoCompensation
from pruning.evaluation import Data, Evaluation, digests_of
from pruning.evaluation.overlap import check_disjoint
from pruning.healing.apart import apart
from pruning.healing.guard import check_length, check_text
from pruning.healing.text import HealingText, draw_text
from pruning.models import loader, preflight, spec
from pruning.runs.cell import Cell
from pruning.runs.cell_identity import settings_record
from pruning.runs.check_data import Reader, check_calibration, check_evaluation
from pruning.runs.trained_text import trained_text
from pruning.search import budget


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is valid, with its samples, evaluation data and search space. No weights are loaded.

    The space is None if it depends on what units cost, which is known only when the model is loaded.
    """

    cell: Cell
    samples: Samples
    data: Mapping[str, Data]
    space: Space | None
    text: HealingText | None = None  # what the pruned model is trained on

    @property
    def evaluations(self) -> int:
        """About how many losses the search asks for, at most; if units have costs, as if these were equal."""
        space = self.space
        if space is None:
            count, removal = loader.n_blocks(self.cell.model), self.cell.removal
            units = count if removal.mask_unit == "block" else 2 * count
            space = removal.space(count, [1.0] * units)
        return budget.evaluations(self.cell.algo, space)


def check_cell(cell: Cell) -> None:
    """Check everything that can be checked without data and without a model.

    Raises InputError if the cell is invalid, ForeignError if its folder contains the result of another
    configuration.
    """
    cell.removal.check()
    budget.check_budget(cell.algo)
    cell.heal.check()
    _check_candidates(cell)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


def prepare(cell: Cell) -> Prepared:
    """Check the model, and draw the samples and the evaluation data.

    Checks the model's configuration and files, its vocabulary, the search space, the data (`check_data`), and that
    samples and evaluation data do not overlap.

    Raises InputError if the input is invalid, UnreachableError if a model or data set cannot be loaded.
    """
    preflight.check_model(cell.model)
    preflight.check_renumbering(cell.model, exported=cell.export is not None and not cell.finished)
    lazy.warn_on(cell.calibration.kind, cell.algo)
    _check_latency(cell)
    space = cell.removal.space(loader.n_blocks(cell.model)) if cell.removal.counted else None
    if space is not None:
        cell.algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    samples = _draw(cast(Hashable, cell.calibration), cell.model)
    data = _evaluation_data(cell.evaluation, cell.model)
    drawn: dict[str, Any] = {"the calibration data": samples}
    drawn |= {f"the data of {name}": evaluated for name, evaluated in data.items()}
    text = None
    if cell.heal.trains:
        text = _healing_text(cell, samples)
        if cell.heal.source in EMBEDDED:
            text = trained_text(cell, text, data) or apart(text, data, cell.heal.windows)
        drawn["the healing text"] = Samples("text", text.source, (*text.windows, *text.heldout), text.seed)
    preflight.check_vocabulary(cell.model, {label: _largest_id(rows) for label, rows in drawn.items()})
    if not cell.evaluation.allow_overlap:
        check_disjoint(samples, data)
        if text is not None:
            check_text(text, data)
    return Prepared(cell, samples, data, space, text)


def _largest_id(drawn: Any) -> int:
    """The largest token id of samples or prompts; 0 for other data, such as the documents of lm-eval."""
    rows = getattr(drawn, "windows", drawn)
    return rows.largest_id if isinstance(rows, Samples) else 0


@lru_cache(maxsize=16)
def _draw(calibration: Hashable, model: spec.Model) -> Samples:
    """The samples of a calibration, in random order, drawn and checked once for all cells with the same settings."""
    samples = cast(Calibration, calibration).draw(loader.tokenizer(model)).shuffled()
    check_calibration(samples, _reader(model))
    return samples


def _healing_text(cell: Cell, samples: Samples) -> HealingText:
    """The text of a healing, drawn once for all cells with the same settings and samples."""
    check_length(cell.heal.length, loader.context_length(cell.model), cell.model.name)
    key = (digest([cell.heal.identity(), samples.sha256]), cell.model)
    if key not in _texts:
        _texts.clear()
        _texts[key] = draw_text(cell.heal, loader.tokenizer(cell.model), samples)
    return _texts[key]


_texts: dict[tuple[str, spec.Model], HealingText] = {}
_data: dict[tuple[str, spec.Model], Mapping[str, Data]] = {}


def _evaluation_data(evaluation: Evaluation, model: spec.Model) -> Mapping[str, Data]:
    """The evaluation data, drawn and checked once for all cells with the same settings and files."""
    key = (digest([settings_record(evaluation), digests_of(evaluation.files())]), model)
    if key not in _data:
        if len(_data) >= 16:
            del _data[next(iter(_data))]
        data = evaluation.data(loader.tokenizer(model))
        check_evaluation(data, _reader(model), evaluation)
        _data[key] = data
    return _data[key]


def _reader(model: spec.Model) -> Reader:
    return Reader.of(model.name, loader.config(model), loader.tokenizer(model))


def _check_candidates(cell: Cell) -> None:
    """Raise InputError if candidates are healed with a compensation, which belongs to the search's mask."""
    if getattr(cell.heal, "candidates", 1) > 1 and cell.compensation != NoCompensation():
        raise InputError(
            f"heal.candidates={cell.heal.candidates} cannot be used with a compensation, which is measured for the "
            "search's mask only: choose compensation=none or heal.candidates=1."
        )


def _check_latency(cell: Cell) -> None:
    """Raise InputError if units are to be timed on more tokens than the model reads."""
    most, tokens = loader.context_length(cell.model), cell.latency.tokens
    if cell.removal.budget == "latency" and most is not None and tokens > most:
        raise InputError(
            f"latency.tokens={tokens} is more than the {most} tokens that {cell.model.name} reads: lower it."
        )
