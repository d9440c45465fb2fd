"""Check drawn data before anything is computed: too long for the model, blank, or all the same.

What is refused, and what is only reported:

- Rows that are longer than the model reads are refused: the model would fail. lm-eval would cut off the beginning of
  an item, so items of a local file are refused as well. For lm-eval's own tasks, whose data nobody here can change,
  the number of shortened items is reported and recorded (`how.shortened`), since the result must be lm-eval's.
- Data that hold nothing but white space, or several samples that are all equal, are refused: their loss means
  nothing, and their standard error of 0 would make every difference significant.
- Single samples that are blank or repeated are reported. Real benchmarks have some, and without them the numbers
  could not be compared with those of others.
- One sample is reported: its value is valid, but it has no standard error, so none is recorded for a metric.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.core.records import METRIC as CONTINUATIONS
from pruning.evaluation import Data
from pruning.evaluation.generation import Prompts
from pruning.evaluation.lm_eval_tasks import EvalTask, TaskGroup
from pruning.models.architecture import context_length_of, rope_change_of

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
        elif isinstance(drawn, EvalTask):
            _check_task(label, drawn, reader)
        elif isinstance(drawn, Prompts) and drawn.length <= (reader.most or drawn.length):
            check_samples(label, drawn.windows, reader, "eval.prompt_tokens")
        elif (length := getattr(drawn, "length", 0)) > (reader.most or length):
            raise _too_long(label, length, reader, f"lower {_setting(evaluation, metric)}")


def check_samples(label: str, samples: Samples, reader: Reader, setting: str) -> None:
    """Raise InputError if samples of one kind are too long, blank, or all the same; `setting` is their length."""
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
            raise InputError(
                f"{label} ({samples.source}) hold nothing but white space: give text to predict."
            )
        if blank:
            _say(
                f"{label} ({samples.source}): {blank} of {samples.count} windows hold nothing but white space"
            )
    pieces = [tuple((row.input_ids, row.span) for row in unit) for unit in samples.units]
    _check_repeats(label, pieces, "items" if items else "windows")


def _check_task(label: str, task: EvalTask, reader: Reader) -> None:
    own = getattr(task.tokenizer, "model_max_length", LM_EVAL)
    most = reader.most or (own if own < 10**9 else LM_EVAL)
    task.check_length(label, most)
    if task.items and (long := task.too_long(most)):
        raise InputError(
            f"{label} ({task.source}): {len(long)} of {len(task.requests)} items, the first of them number "
            f"{long[0] + 1}, are longer than the {most} tokens that {reader.name} reads: remove these items."
        )
    _check_repeats(f"{label} ({task.source})", task.pieces, "items")


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
