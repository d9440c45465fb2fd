"""Check a cell and draw its data, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

from pruning.algo import lazy
from pruning.calibration.item_files import existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import EMBEDDED
from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.records import FOLDER, RECORD, HealRecord
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import Magnitude, NoCompensation
from pruning.evaluation import Data, digests_of
from pruning.evaluation.generation import Generation
from pruning.evaluation.text_overlap import check_disjoint, overlaps
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
from pruning.runs.cell import Cell, Prepared, settings_record
from pruning.runs.check_data import Reader, check_calibration, check_evaluation
from pruning.search import driver

T = TypeVar("T")


def check_cell(cell: Cell) -> None:
    """Check everything that can be checked without data and without a model.

    Raises InputError if the cell is invalid, ForeignError if its folder contains the result of another
    configuration.
    """
    cell.removal.check()
    driver.check_limit(cell.max_evaluations)
    cell.heal.check()
    if isinstance(cell.compensation, Magnitude):
        if cell.heal.trains:
            raise InputError(
                "a model with the factors of compensation=magnitude cannot be healed, because no checkpoint could "
                "hold it: choose compensation=none or linear, or heal=none."
            )
        if isinstance(cell.evaluation, Generation):
            raise InputError(
                "a model with the factors of compensation=magnitude cannot generate: choose another evaluation, or "
                "compensation=none or linear."
            )
    if getattr(cell.heal, "candidates", 1) > 1 and cell.compensation != NoCompensation():
        raise InputError(
            f"heal.candidates={cell.heal.candidates} cannot be used with a compensation, which is measured for the "
            "search's mask only: choose compensation=none or heal.candidates=1."
        )
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
    most, tokens = model.context_length, cell.latency.tokens
    if cell.removal.budget == "latency" and most is not None and tokens > most:
        raise InputError(
            f"latency.tokens={tokens} is more than the {most} tokens that {model.name} reads: lower it."
        )
    space = cell.removal.space(model.n_blocks) if cell.removal.counted else None
    if space is not None:
        cell.algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    reader = Reader.of(model.name, model.config, model.tokenizer)

    def draw_samples() -> Samples:
        """The samples of the calibration, in random order."""
        samples = cell.calibration.draw(model.tokenizer).shuffled()
        check_calibration(samples, reader)
        return samples

    def draw_data() -> Mapping[str, Data]:
        data = cell.evaluation.data(model.tokenizer)
        check_evaluation(data, reader, cell.evaluation)
        return data

    samples = drawn.once(("samples", cell.calibration, model), draw_samples)
    asked = digest([settings_record(cell.evaluation), digests_of(cell.evaluation.files())])
    data = drawn.once(("evaluation", asked, model), draw_data)
    text = _healing_text(cell, samples, data, drawn) if cell.heal.trains else None
    rows: dict[str, Any] = {"the calibration data": samples}
    rows |= {f"the data of {name}": getattr(one, "windows", one) for name, one in data.items()}
    if text is not None:
        rows["the healing text"] = Samples("text", text.source, (*text.windows, *text.heldout), text.seed)
    # Other data, such as the documents of lm-eval, are texts that the tokenizer encodes.
    largest = {label: one.largest_id for label, one in rows.items() if isinstance(one, Samples)}
    preflight.check_vocabulary(model, largest)
    if cell.evaluation.allow_overlap:
        return Prepared(cell, samples, data, space, text, overlaps(samples, data))
    check_disjoint(samples, data)
    if text is not None:
        check_text(text, data)
    return Prepared(cell, samples, data, space, text)


def _healing_text(cell: Cell, samples: Samples, data: Mapping[str, Data], drawn: Drawn) -> HealingText:
    """What the pruned model is trained on; an embedded text without windows that repeat a phrase of `data`."""

    def draw() -> HealingText:
        check_length(cell.heal.length, cell.model.context_length, cell.model.name)
        return draw_text(cell.heal, cell.model.tokenizer, samples)

    text = drawn.once(("text", digest([cell.heal.identity(), samples.sha256]), cell.model), draw)
    if cell.heal.source not in EMBEDDED:
        return text
    return _trained_text(cell, text, data) or text_apart(text, data, cell.heal.windows)


def _trained_text(cell: Cell, drawn: HealingText, data: Mapping[str, Data]) -> HealingText | None:
    """The text of a finished healing with the settings of a cell, if it shares no run of tokens with `data`.

    Another evaluation leaves out other windows of the text `drawn`. But a healing need not be repeated if what it was
    trained on has nothing in common with the new data. None if there is no such healing.
    """

    def read() -> list[HealRecord]:
        """The records of the finished healings in the cell's folder; the one of its result comes first."""
        places = [FOLDER, *([f"{FOLDER}/mask-*"] if cell.heal.candidates > 1 else ())]
        paths = [path for place in places for path in sorted(cell.folder.glob(f"{place}/*/{RECORD}"))]
        records: list[HealRecord] = [storage.read_json(path) for path in paths]
        done = cell.done()
        last = done["heal"]["folder"] if done is not None and "heal" in done else None
        return sorted(records, key=lambda record: record["folder"] != last)

    for record in collectives.on_first(read):
        text = drawn.without(record.get("left_out", ()))
        heal = settled(cell.heal, known(cell.heal, text, cell.folder / FOLDER))
        if heal is None or record["folder"].rpartition("/")[2] != heal.key(record["text_sha256"]):
            continue
        if text.sha256 == record["text_sha256"] and not repeated(text, data):
            return text
    return None
