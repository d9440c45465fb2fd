"""Check a cell and draw its data, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pruning.algo import lazy
from pruning.calibration.item_files import existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import EMBEDDED
from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.mask import Space
from pruning.core.records import FOLDER, RECORD, HealRecord
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import NoCompensation
from pruning.evaluation import Data, digests_of
from pruning.evaluation.text_overlap import check_disjoint
from pruning.healing.rate import known, settled
from pruning.healing.training_text import (
    HealingText,
    check_length,
    check_text,
    draw_text,
    repeated,
    text_apart,
)
from pruning.models import preflight
from pruning.runs.cell import Cell, settings_record
from pruning.runs.check_data import Reader, check_calibration, check_evaluation
from pruning.search import driver

T = TypeVar("T")


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
            count, removal = self.cell.model.n_blocks, self.cell.removal
            units = count if removal.mask_unit == "block" else 2 * count
            space = removal.space(count, [1.0] * units)
        return driver.evaluations(self.cell.algo, space, self.cell.max_evaluations)


def check_cell(cell: Cell) -> None:
    """Check everything that can be checked without data and without a model.

    Raises InputError if the cell is invalid, ForeignError if its folder contains the result of another
    configuration.
    """
    cell.removal.check()
    driver.check_limit(cell.max_evaluations)
    cell.heal.check()
    _check_candidates(cell)
    if (file := cell.calibration.file()) is not None:
        existing(file)
    cell.result()


class Drawn:
    """What the cells of one command share: checks of models, samples, evaluation data, and texts for healing.

    Each is drawn and checked once for all cells with the same settings and files.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, draw: Callable[[], T]) -> T:
        """What `draw` returned when this key was first asked for."""
        if key not in self._kept:
            self._kept[key] = draw()
        return cast(T, self._kept[key])


def prepare(cell: Cell, drawn: Drawn | None = None) -> Prepared:
    """Check the model, and draw the samples and the evaluation data; `drawn` is what cells of a command share.

    Checks the model's configuration and files, its vocabulary, the search space, the data (`check_data`), and that
    samples and evaluation data do not overlap.

    Raises InputError if the input is invalid, UnreachableError if a model or data set cannot be loaded.
    """
    model, drawn = cell.model, drawn or Drawn()
    exported = cell.export is not None and not cell.finished
    drawn.once(("model", model), lambda: preflight.check_model(model))
    drawn.once(("renumbering", model, exported), lambda: preflight.check_renumbering(model, exported))
    lazy.warn_on(cell.calibration.kind, cell.algo)
    _check_latency(cell)
    space = cell.removal.space(model.n_blocks) if cell.removal.counted else None
    if space is not None:
        cell.algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    reader = Reader.of(model.name, model.config, model.tokenizer)
    samples = drawn.once(("samples", cell.calibration, model), lambda: _samples(cell, reader))
    files = digests_of(cell.evaluation.files())
    asked = ("evaluation", digest([settings_record(cell.evaluation), files]), model)
    data = drawn.once(asked, lambda: _evaluation_data(cell, reader))
    rows: dict[str, Any] = {"the calibration data": samples}
    rows |= {f"the data of {name}": evaluated for name, evaluated in data.items()}
    text = None
    if cell.heal.trains:
        wanted = ("text", digest([cell.heal.identity(), samples.sha256]), model)
        text = drawn.once(wanted, lambda: _healing_text(cell, samples))
        if cell.heal.source in EMBEDDED:
            text = trained_text(cell, text, data) or text_apart(text, data, cell.heal.windows)
        rows["the healing text"] = Samples("text", text.source, (*text.windows, *text.heldout), text.seed)
    preflight.check_vocabulary(model, {label: _largest_id(one) for label, one in rows.items()})
    if not cell.evaluation.allow_overlap:
        check_disjoint(samples, data)
        if text is not None:
            check_text(text, data)
    return Prepared(cell, samples, data, space, text)


def _samples(cell: Cell, reader: Reader) -> Samples:
    """The samples of a calibration, in random order."""
    samples = cell.calibration.draw(reader.tokenizer).shuffled()
    check_calibration(samples, reader)
    return samples


def _evaluation_data(cell: Cell, reader: Reader) -> Mapping[str, Data]:
    data = cell.evaluation.data(reader.tokenizer)
    check_evaluation(data, reader, cell.evaluation)
    return data


def _healing_text(cell: Cell, samples: Samples) -> HealingText:
    check_length(cell.heal.length, cell.model.context_length, cell.model.name)
    return draw_text(cell.heal, cell.model.tokenizer, samples)


def _largest_id(drawn: Any) -> int:
    """The largest token id of samples or prompts; 0 for other data, such as the documents of lm-eval."""
    rows = getattr(drawn, "windows", drawn)
    return rows.largest_id if isinstance(rows, Samples) else 0


def _check_candidates(cell: Cell) -> None:
    """Raise InputError if candidates are healed with a compensation, which belongs to the search's mask."""
    if getattr(cell.heal, "candidates", 1) > 1 and cell.compensation != NoCompensation():
        raise InputError(
            f"heal.candidates={cell.heal.candidates} cannot be used with a compensation, which is measured for the "
            "search's mask only: choose compensation=none or heal.candidates=1."
        )


def _check_latency(cell: Cell) -> None:
    """Raise InputError if units are to be timed on more tokens than the model reads."""
    most, tokens = cell.model.context_length, cell.latency.tokens
    if cell.removal.budget == "latency" and most is not None and tokens > most:
        raise InputError(
            f"latency.tokens={tokens} is more than the {most} tokens that {cell.model.name} reads: lower it."
        )


# Find the text of a finished healing, so that a second evaluation does not train again.
#
# Embedded text is drawn without the windows that repeat a phrase of the evaluation, so another evaluation would give
# another text. But a healing need not be repeated if what it was trained on has nothing in common with the new data.


def trained_text(cell: Cell, drawn: HealingText, data: Mapping[str, Data]) -> HealingText | None:
    """The text of a finished healing with the settings of a cell, if it shares no run of tokens with `data`.

    `drawn` is the text before anything was left out because of an evaluation. None if there is no such healing.
    """
    for record in _finished(cell):
        text = drawn.without(record.get("left_out", ()))
        heal = settled(cell.heal, known(cell.heal, text, cell.folder / FOLDER))
        if heal is None or record["folder"].rpartition("/")[2] != heal.key(record["text_sha256"]):
            continue
        if text.sha256 == record["text_sha256"] and not repeated(text, data):
            return text
    return None


def _finished(cell: Cell) -> list[HealRecord]:
    """The records of the finished healings in a cell's folder; the one that its result has comes first."""

    def read() -> list[HealRecord]:
        places = [FOLDER, *([f"{FOLDER}/mask-*"] if cell.heal.candidates > 1 else ())]
        paths = [path for place in places for path in sorted(cell.folder.glob(f"{place}/*/{RECORD}"))]
        records: list[HealRecord] = [storage.read_json(path) for path in paths]
        result = cell.result()
        last = (
            result["heal"]["folder"] if result and result["status"] == "done" and "heal" in result else None
        )
        return sorted(records, key=lambda record: record["folder"] != last)

    return collectives.on_first(read)
