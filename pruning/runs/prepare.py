"""Check a cell, draw its data and check them, before any weights are loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pruning.algo import lazy
from pruning.calibration import digests_of, file_of
from pruning.calibration.item_files import existing
from pruning.calibration.samples import Samples
from pruning.calibration.sources import EMBEDDED
from pruning.core import storage
from pruning.core.errors import InputError
from pruning.core.records import FOLDER, RECORD, HealRecord
from pruning.core.records import METRIC as CONTINUATIONS
from pruning.core.storage import digest
from pruning.engine import collectives
from pruning.engine.compensation import Magnitude, NoCompensation
from pruning.evaluation import Data
from pruning.evaluation.generation import Generation, Prompts
from pruning.evaluation.lm_eval_tasks import EvalTask, TaskGroup
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
from pruning.models.architecture import context_length_of, rope_change_of
from pruning.runs.cell import Cell, Prepared, settings_record
from pruning.search import driver

T = TypeVar("T")

log = logging.getLogger(__name__)


def check_cell(cell: Cell) -> None:
    """Check everything that needs neither data nor a model. Raises InputError or ForeignError."""
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
    if (file := file_of(cell.calibration)) is not None:
        existing(file)
    cell.result()


Drawn = dict[Hashable, Any]  # results of checks and draws that the cells of one command share


def once(drawn: Drawn, key: Hashable, draw: Callable[[], T]) -> T:
    """The result of `draw()`, which is called only once for each key."""
    if key not in drawn:
        drawn[key] = draw()
    return cast(T, drawn[key])


def prepare(cell: Cell, drawn: Drawn | None = None) -> Prepared:
    """Check the model, and draw the samples and the evaluation data. Cells of one command share results in `drawn`.

    Checks the model's configuration, files and vocabulary, the search space and the data. It also checks that
    samples, evaluation data and healing text do not overlap.

    Raises InputError if the input is invalid, OutOfReachError if the search would need too many evaluations, and
    UnreachableError if a model or data set cannot be loaded.
    """
    model, drawn = cell.model, {} if drawn is None else drawn
    once(drawn, ("model", model), model.check)
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
        samples = cell.calibration.draw(model.tokenizer).shuffled()
        check_calibration(samples, reader)
        return samples

    def draw_data() -> Mapping[str, Data]:
        data = cell.evaluation.data(model.tokenizer)
        check_evaluation(data, reader, cell.evaluation)
        return data

    samples = once(drawn, ("samples", cell.calibration, model), draw_samples)
    asked = digest([settings_record(cell.evaluation), digests_of(cell.evaluation)])
    data = once(drawn, ("evaluation", asked, model), draw_data)
    text = _healing_text(cell, samples, data, drawn) if cell.heal.trains else None
    rows: dict[str, Any] = {"the calibration data": samples}
    rows |= {f"the data of {name}": getattr(one, "windows", one) for name, one in data.items()}
    if text is not None:
        rows["the healing text"] = Samples("text", text.source, (*text.windows, *text.heldout), text.seed)
    # Other data, such as the documents of lm-eval, are texts, which the model's own tokenizer encodes.
    largest = {label: one.largest_id for label, one in rows.items() if isinstance(one, Samples)}
    model.check_vocabulary(largest)
    if cell.evaluation.allow_overlap:
        shared = once(drawn, ("shared", samples.sha256, asked, model), lambda: overlaps(samples, data))
        return Prepared(cell, samples, data, space, text, shared)
    once(drawn, ("disjoint", samples.sha256, asked, model), lambda: check_disjoint(samples, data))
    if text is not None:
        once(drawn, ("disjoint", text.sha256, asked, model), lambda: check_text(text, data))
    return Prepared(cell, samples, data, space, text)


def _healing_text(cell: Cell, samples: Samples, data: Mapping[str, Data], drawn: Drawn) -> HealingText:
    """The text for training the pruned model. Windows of a packaged text that overlap `data` are left out."""

    def draw() -> HealingText:
        check_length(cell.heal.length, cell.model.context_length, cell.model.name)
        return draw_text(cell.heal, cell.model.tokenizer, samples)

    text = once(drawn, ("text", digest([cell.heal.identity(), samples.sha256]), cell.model), draw)
    if cell.heal.source not in EMBEDDED:
        return text
    return _trained_text(cell, text, data) or text_apart(text, data, cell.heal.windows)


def _trained_text(cell: Cell, drawn: HealingText, data: Mapping[str, Data]) -> HealingText | None:
    """The text of a finished training run with the cell's settings, unless it overlaps `data`; None if there is none.

    A new evaluation can change which windows of `drawn` are left out. Even so, training is not repeated
    unless the earlier text shares a run of tokens with the new data.
    """

    def read() -> list[HealRecord]:
        """The records of finished training runs in the cell's folder; the one that the result names comes first."""
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


# Check drawn data. Rows longer than the model's context, and data that are all blank or all equal, are refused: the
# model would fail, or a standard error of 0 would make every difference significant. Single samples that are blank or
# repeated are only reported, because real benchmarks have some. lm-eval's own tasks cannot be changed: the number of
# items that lm-eval shortens is reported and recorded (`how.shortened`).

LM_EVAL = 2048  # the limit in tokens that lm-eval assumes if configuration and tokenizer set none


@dataclass(frozen=True)
class Reader:
    """The model that reads the data: its name, its limit `most` in tokens (None: unknown), and its tokenizer.

    If a row has more than `change` tokens (None: no limit), its whole batch gets other position embeddings.
    """

    name: str
    most: int | None
    tokenizer: Any
    change: int | None = None

    @classmethod
    def of(cls, name: str, config: Any, tokenizer: Any) -> Reader:
        """A reader with the limits that the configuration sets."""
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
        elif isinstance(drawn, EvalTask | TaskGroup):
            for member in drawn.members:
                _check_task(label, member, reader)
        elif isinstance(drawn, Prompts) and drawn.length <= (reader.most or drawn.length):
            check_samples(label, drawn.windows, reader, "eval.prompt_tokens")
        elif (length := getattr(drawn, "length", 0)) > (reader.most or length):
            raise _too_long(label, length, reader, f"lower {_setting(evaluation, metric)}")


def check_samples(label: str, samples: Samples, reader: Reader, setting: str) -> None:
    """Raise InputError if samples are too long, blank, or all the same; `setting` names what decides their length."""
    items, change = samples.kind == "items", reader.change
    if reader.most is not None and samples.length > reader.most:
        long = sum(any(len(row.input_ids) > reader.most for row in unit) for unit in samples.units)
        remedy = (
            f"remove the items that are longer ({long} of {samples.count})" if items else f"lower {setting}"
        )
        raise _too_long(label, samples.length, reader, remedy)
    if change is not None and min(len(row.input_ids) for row in samples.rows) <= change < samples.length:
        raise InputError(
            f"{label} have rows of up to {samples.length} tokens and shorter ones, and above {change} tokens "
            f"{reader.name} embeds positions in another way (LongRoPE), for all rows of a batch: the loss of a row "
            f"would depend on its neighbours. {'Remove the longer items' if items else f'Lower {setting}'}, so that "
            f"all rows have at most {change} tokens."
        )
    if not items:
        used = {token for row in samples.rows for token in row.input_ids}
        texts = {token: reader.tokenizer.decode([token], skip_special_tokens=True) for token in used}
        blank = sum(
            all(not texts[i].strip() for row in unit for i in row.input_ids) for unit in samples.units
        )
        if blank == samples.count:
            raise InputError(f"{label} ({samples.source}) hold only white space: give text to predict.")
        if blank:
            where = f"{label} ({samples.source})"
            log.warning("%s: %d of %d windows hold only white space", where, blank, samples.count)
    pieces = [tuple((row.input_ids, row.span) for row in unit) for unit in samples.units]
    _check_repeats(label, pieces, "items" if items else "windows")


def _check_task(label: str, task: EvalTask, reader: Reader) -> None:
    own = getattr(task.tokenizer, "model_max_length", LM_EVAL)
    most = reader.most or (own if own < 10**9 else LM_EVAL)
    if task.generated and task.new_tokens >= most:
        raise InputError(
            f"{label} ({task.source}): up to {task.new_tokens} tokens are generated, and the model reads at most "
            f"{most}: lower eval.max_new_tokens."
        )
    if task.items and (long := task.too_long(most)):
        raise InputError(
            f"{label} ({task.source}): {len(long)} of {len(task.requests)} items, the first of them number "
            f"{long[0] + 1}, are longer than the {most} tokens that {reader.name} reads: remove these items."
        )
    _check_repeats(f"{label} ({task.source})", task.pieces, "items")


def _check_repeats(label: str, pieces: Sequence[Hashable], unit: str) -> None:
    count, distinct = len(pieces), len(set(pieces))
    if count == 1:
        log.warning("%s are one sample, without a standard error: no difference can be judged by it", label)
    elif distinct == 1:
        raise InputError(
            f"{label} are {count} {unit} that are all the same, so their standard error would be 0: "
            f"give different {unit}."
        )
    elif distinct < count:
        text = "%s: %d of %d %s repeat another one, so standard errors are too small"
        log.warning(text, label, count - distinct, count, unit)


def _setting(evaluation: Any, metric: str) -> str:
    """The name of the setting that decides the length of a metric's rows."""
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
