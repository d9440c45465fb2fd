"""Measure how many answers a model writes exactly right, on a task of lm-eval."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pruning.core.metric_names import error_of, filtered_of
from pruning.distributed import collectives
from pruning.evaluation import Measured
from pruning.evaluation.generating import generating
from pruning.evaluation.generation_task import METRIC, GenerationTask
from pruning.evaluation.lm_eval_run import ask, lm_eval_files, record, value_and_error
from pruning.evaluation.text import terms_file

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)


def exact_answers(name: str, forward: Forward, task: GenerationTask, mask: Mask, batch_size: int) -> Measured:
    """The share of right answers of a mask on a task, its standard error, and lm-eval's own results and samples.

    If a task extracts the answer in several ways, the first way gives the metric `name`; each has a metric. Raises
    RequestError if lm-eval sends other requests than those of the task's digest, InputError if the model cannot
    generate without these units.
    """
    log.info("generating %s with %s removed: %d items", name, mask, len(task.requests))
    with generating(forward, mask) as module:
        results, shortened = ask(name, forward, module, task, batch_size)
    return collectives.on_first(lambda: _measured(name, task, results, shortened))


def _measured(name: str, task: GenerationTask, output: Mapping[str, Any], shortened: int) -> Measured:
    """The measurement from lm-eval's output, whose keys are `metric,filter`."""
    label = task.task.task_name
    scores = output["results"][label]
    filters = [key.partition(",")[2] for key in scores if key.startswith(f"{METRIC},")]
    metrics: dict[str, float] = {}
    for number, way in enumerate(filters):
        own = name if number == 0 else filtered_of(name, way)
        error = scores.get(f"{METRIC}_stderr,{way}")
        metrics |= value_and_error(own, error_of(own), scores[f"{METRIC},{way}"], error)
    samples = [sample for sample in output["samples"][label] if sample["filter"] == filters[0]]
    how = record(task, output, f"{METRIC}, {filters[0]}", shortened)
    how["generation"] = dict(task.task.config.generation_kwargs or {})
    terms = {"hits": [float(sample[METRIC]) for sample in samples]}
    return Measured(metrics, how, {**lm_eval_files(output), **terms_file(terms)})
