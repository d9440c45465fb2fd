"""Measure the accuracy of a masked model in memory on a task of lm-eval; `lm_eval_run.py` says how it is asked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruning.core.metric_names import error_of, plain_of
from pruning.distributed import collectives
from pruning.evaluation import Measured
from pruning.evaluation.engine_answers import answers
from pruning.evaluation.lm_eval_run import ask, lm_eval_files, record, value_and_error
from pruning.evaluation.tasks import EvalTask
from pruning.evaluation.text import short, terms_file

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)


def accuracy(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The accuracy of a mask on a task, its standard error, and lm-eval's own results and samples.

    Raises RequestError if lm-eval sends other requests than those of the task's digest.
    """
    from pruning.models.loader import context_length_of
    from pruning.models.units import masked

    log.info("evaluating %s with %s removed: %d items", name, mask, len(task.requests))
    module, answered = forward.model.module, None
    if task.scorer == "engine" and not task.too_long(context_length_of(module.config) or sys.maxsize):
        answered = answers(forward, mask, task.rows)
    with masked(module, mask, forward.scales):
        results, shortened = ask(name, forward, module, task, batch_size, answered)
    return collectives.on_first(lambda: _measured(name, task, results, shortened))


def _measured(name: str, task: EvalTask, output: Mapping[str, Any], shortened: int) -> Measured:
    """The measurement from lm-eval's output. On each machine, lm-eval returns the output to one rank only."""
    label = task.task.task_name
    scores = output["results"][label]
    metrics = _scores(name, scores, str(task.metric))
    if task.metric != "acc" and "acc" in task.task.aggregation():
        metrics |= _scores(plain_of(name), scores, "acc")
    terms = _terms(output["samples"][label], str(task.metric))
    how = record(task, output, task.metric, shortened)
    return Measured(metrics, how, {**lm_eval_files(output), **terms_file(terms)})


def _scores(name: str, scores: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The value of a metric in lm-eval's scores, whose keys are `metric,filter`, and its standard error."""
    by_metric = {key.partition(",")[0]: value for key, value in scores.items()}
    return value_and_error(name, error_of(name), by_metric[metric], by_metric[f"{metric}_stderr"])


def _terms(samples: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """How right each item was answered, and the log-likelihoods of its choices: masks can be compared by item.

    lm-eval's samples have both as well, but among the prompts: a hundred times as much to read for each mask.
    """
    return {
        "hits": [float(sample[metric]) for sample in samples],
        "loglikelihoods": [
            [short(response[0]) for response in sample["filtered_resps"]] for sample in samples
        ],
    }
