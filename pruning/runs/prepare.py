"""Check a cell and draw its data, before any weights are loaded."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from pruning.algo import lazy
from pruning.calibration import Calibration
from pruning.calibration.item_files import existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import EMBEDDED
from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.mask import Space
from pruning.core.records import FOLDER, RECORD, HealRecord
from pruning.core.records import METRIC as CONTINUATIONS
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import NoCompensation
from pruning.evaluation import Data, Evaluation, digests_of
from pruning.evaluation.choices import EvalTask
from pruning.evaluation.generation import Prompts
from pruning.evaluation.lm_eval_tasks import GenerationTask, TaskGroup
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
from pruning.models import loader, preflight, spec
from pruning.models.loader import context_length_of, rope_change_of
from pruning.runs.cell import Cell, settings_record
from pruning.search import driver


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
            text = trained_text(cell, text, data) or text_apart(text, data, cell.heal.windows)
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


# Check drawn data before anything is computed: too long for the model, blank, or all the same.
#
# What is refused, and what is only reported:
#
# - Rows that are longer than the model reads are refused: the model would fail. lm-eval would cut off the beginning
#   of
#   an item, so items of a local file are refused as well. For lm-eval's own tasks, whose data nobody here can
#   change,
#   the number of shortened items is reported and recorded (`how.shortened`), since the result must be lm-eval's.
# - Data that hold nothing but white space, or several samples that are all equal, are refused: their loss means
#   nothing, and their standard error of 0 would make every difference significant.
# - Single samples that are blank or repeated are reported. Real benchmarks have some, and without them the numbers
#   could not be compared with those of others.
# - One sample is reported: its value is valid, but it has no standard error, so none is recorded for a metric.

log = logging.getLogger(__name__)

LM_EVAL = 2048  # tokens that lm-eval gives a model whose configuration and tokenizer set no limit
_said: set[str] = set()  # warnings are printed once, although many cells use the same data


@dataclass(frozen=True)
class Reader:
    """The model that reads the data: its name, its limit in tokens (None: unknown), and its tokenizer.

    `change` is the length above which it embeds the positions of a whole batch in another way (None: never).
    """

    name: str
    most: int | None
    tokenizer: Any
    change: int | None = None

    @classmethod
    def of(cls, name: str, config: Any, tokenizer: Any) -> Reader:
        """A model with this configuration."""
        return cls(name, context_length_of(config), tokenizer, rope_change_of(config))


def check_calibration(samples: Samples, reader: Reader, prefix: str = "calibration") -> None:
    """Raise InputError if calibration samples are too long, blank, or all the same."""
    for kind in ("text", "items"):
        part = samples.only(kind)
        if not part.rows:
            continue
        setting = f"{prefix}.{kind}.length" if samples.kind == "both" else f"{prefix}.length"
        check_samples("the calibration data", part, reader, setting)


def check_evaluation(data: Mapping[str, Data], reader: Reader, evaluation: Any = None) -> None:
    """Raise InputError if evaluation data are too long, blank, or all the same."""
    for metric, drawn in data.items():
        label = f"the data of {metric}"
        if isinstance(drawn, Samples):
            check_samples(label, drawn, reader, _setting(evaluation, metric))
        elif isinstance(drawn, TaskGroup):
            for member in drawn.members:
                _check_task(label, member, reader)
        elif isinstance(drawn, EvalTask | GenerationTask):
            _check_task(label, drawn, reader)
        elif isinstance(drawn, Prompts) and drawn.length <= (reader.most or drawn.length):
            check_samples(label, drawn.windows, reader, "eval.prompt_tokens")
        elif (length := getattr(drawn, "length", 0)) > (reader.most or length):
            raise _too_long(label, length, reader, f"lower {_setting(evaluation, metric)}")


def check_samples(label: str, samples: Samples, reader: Reader, setting: str) -> None:
    """Raise InputError if samples of one kind are too long, blank, or all the same; `setting` is their length."""
    items = samples.kind == "items"
    if reader.most is not None and samples.length > reader.most:
        long = sum(any(len(row.input_ids) > reader.most for row in unit) for unit in samples.units)
        remedy = (
            f"remove the items that are longer ({long} of {samples.count})" if items else f"lower {setting}"
        )
        raise _too_long(label, samples.length, reader, remedy)
    if (
        reader.change is not None
        and min(len(r.input_ids) for r in samples.rows) <= reader.change < samples.length
    ):
        raise InputError(
            f"{label} have rows of up to {samples.length} tokens and shorter ones, and above {reader.change} tokens "
            f"{reader.name} embeds positions in another way (LongRoPE), for all rows of a batch: the loss of a row "
            f"would depend on its neighbours. {'Remove the longer items' if items else f'Lower {setting}'}, so that "
            f"all rows have at most {reader.change} tokens."
        )
    if not items:
        _check_blank(label, samples, reader.tokenizer)
    pieces = [tuple((row.input_ids, row.span) for row in unit) for unit in samples.units]
    _check_repeats(label, pieces, "items" if items else "windows")


def _check_task(label: str, task: EvalTask | GenerationTask, reader: Reader) -> None:
    own = getattr(task.tokenizer, "model_max_length", LM_EVAL)
    most = reader.most or (own if own < 10**9 else LM_EVAL)
    if isinstance(task, GenerationTask):
        task.check_length(label, most)
    if task.local and (long := task.too_long(most)):
        with_answer = f" with {task.new_tokens} new tokens" if isinstance(task, GenerationTask) else ""
        raise InputError(
            f"{label} ({task.source}): {len(long)} of {len(task.requests)} items, the first of them number "
            f"{long[0] + 1}, are longer{with_answer} than the {most} tokens that {reader.name} reads: remove these "
            "items."
        )
    _check_repeats(f"{label} ({task.source})", task.pieces, "items")


def _check_blank(label: str, samples: Samples, tokenizer: Any) -> None:
    texts = {ids: tokenizer.decode([ids], skip_special_tokens=True) for ids in _tokens(samples)}
    blank = sum(all(not texts[i].strip() for row in unit for i in row.input_ids) for unit in samples.units)
    if blank == samples.count:
        raise InputError(f"{label} ({samples.source}) hold nothing but white space: give text to predict.")
    if blank:
        _say(f"{label} ({samples.source}): {blank} of {samples.count} windows hold nothing but white space")


def _tokens(samples: Samples) -> Iterator[int]:
    yield from {token for row in samples.rows for token in row.input_ids}


def _check_repeats(label: str, pieces: Sequence[Hashable], unit: str) -> None:
    count, distinct = len(pieces), len(set(pieces))
    if count == 1:
        _say(f"{label} are one sample, which has no standard error: no difference can be judged by it")
    elif distinct == 1:
        raise InputError(
            f"{label} are {count} {unit} that are all the same, so their standard error would be 0: "
            f"give different {unit}."
        )
    elif distinct < count:
        _say(
            f"{label}: {count - distinct} of {count} {unit} repeat another one, so standard errors are too small"
        )


def _setting(evaluation: Any, metric: str) -> str:
    """The setting that decides how long the rows of a metric are."""
    name = metric.partition("/")[2]
    if metric == CONTINUATIONS:
        return "eval.prompt_tokens or eval.continuation_tokens"
    if metric == "speed":
        return "eval.prompts or eval.new_tokens"
    if metric == "ppl/heldout":
        return "eval.length"
    for prefix, one in (("eval", evaluation), ("eval.perplexity", getattr(evaluation, "perplexity", None))):
        if name in (getattr(one, "corpora", None) or {}):
            return f"{prefix}.corpora.{name}.window"
    return "window" if evaluation is None else "eval.window"


def _too_long(label: str, length: int, reader: Reader, remedy: str) -> InputError:
    return InputError(
        f"{label} have rows of {length} tokens, and {reader.name} reads at most {reader.most}: {remedy}."
    )


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


# Find the text of a finished healing, so that a second evaluation does not train again.
#
# Embedded text is drawn without the windows that repeat a phrase of the evaluation, so another evaluation would give
# another text. But a healing need not be repeated if what it was trained on has nothing in common with the new data.


def trained_text(cell: Cell, drawn: HealingText, data: Mapping[str, Data]) -> HealingText | None:
    """The text of a finished healing with the settings of a cell, if it shares no run of tokens with `data`.

    `drawn` is the text before anything was left out because of an evaluation. None if there is no such healing, or if
    its text is not known: older versions did not record what was left out.
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
