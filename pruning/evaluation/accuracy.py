"""Measure the accuracy of a masked model in memory on a task of lm-eval.

Each task is asked by itself: a batch never mixes tasks, since another padding rounds bfloat16 differently.

The requests of a task are built again for each mask. lm-eval's cache of responses is never used: the cache
does not distinguish masks, so a pruned model would get the dense model's answers.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pruning.core.metric_names import error_of, plain_of
from pruning.distributed import collectives
from pruning.evaluation import Measured
from pruning.evaluation.lm_eval_quiet import quiet, without_git
from pruning.evaluation.tasks import EvalTask, check_equal
from pruning.evaluation.text import short, terms_file

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

# If this is 0, lm-eval reports no standard errors at all, although the standard error of a mean needs no bootstrap.
BOOTSTRAPS = 1000

log = logging.getLogger(__name__)


def accuracy(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The accuracy of a mask on a task, its standard error, and lm-eval's own results and samples.

    If there are several ranks, each answers a share of the requests; then all ranks get all answers. Raises
    RequestError if lm-eval sends other requests than those of the task's digest.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from pruning.models.units import masked

    log.info("evaluating %s with %s removed: %d items", name, mask, len(task.requests))
    module = forward.model.module
    with masked(module, mask, forward.scales), quiet(), without_git():
        model = HFLM(pretrained=module, tokenizer=_complete(task.tokenizer), batch_size=batch_size)
        # If the first weights are on disk, lm-eval chooses the wrong device.
        model._device = forward.model.device
        shortened = len(task.too_long(model.max_length))
        model.loglikelihood = partial(_over_ranks, model.loglikelihood, task)
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[task.task],
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            num_fewshot=0,
            limit=task.limit,
            bootstrap_iters=BOOTSTRAPS,
        )
    if shortened:
        log.warning(
            "%s: %d of %d items are longer than the %d tokens that the model reads; lm-eval cut off their beginning",
            *(name, shortened, len(task.requests), model.max_length),
        )
    return collectives.on_first(lambda: _measured(name, task, results, shortened))


def _measured(name: str, task: EvalTask, output: Mapping[str, Any], shortened: int) -> Measured:
    """The measurement from lm-eval's output. On each machine, lm-eval returns the output to one rank only."""
    label = task.task.task_name
    scores = output["results"][label]
    metrics = _scores(name, scores, str(task.metric))
    if task.metric != "acc" and "acc" in task.task.aggregation():
        metrics |= _scores(plain_of(name), scores, "acc")
    how = {
        "source": task.source,
        "task": label,
        "version": str(output["versions"].get(label)),
        "lm_eval": output["lm_eval_version"],
        "metric": task.metric,
        "items": len(task.requests),
        "of": len(task.task.eval_docs),
        "limit": task.limit,
    }
    # These are recorded only if there are any, so that other measurements look as they did before.
    how |= {key: n for key, n in (("shortened", shortened), ("repeated", task.repeated)) if n}
    terms = _terms(output["samples"][label], str(task.metric))
    return Measured(metrics, how, {**_files(output), **terms_file(terms)})


def _over_ranks(
    answer: Callable[..., Sequence[Any]], task: EvalTask, requests: Sequence[Any], **settings: Any
) -> list[Any]:
    """The answers to all requests. Each rank answers its share; lm-eval itself knows of only one process."""
    check_equal([tuple(request.args) for request in requests], task.asked, task.source)
    share = collectives.share_of(requests)
    return collectives.gather(answer(share, **settings) if share else [])


def _complete(tokenizer: Any) -> Any:
    """A copy of a tokenizer with an end-of-text or beginning-of-text token. lm-eval can change the copy.

    If the tokenizer has neither a beginning-of-text nor an end-of-text token, token 0 becomes its end-of-text token.
    lm-eval pads with this token (padding is masked) and puts it before an empty context. Without such a token,
    lm-eval fails.
    """
    copied = copy.deepcopy(tokenizer)
    if copied.bos_token_id is None and copied.eos_token_id is None:
        copied.eos_token = copied.convert_ids_to_tokens(0)
    return copied


def _scores(name: str, scores: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The value of a metric in lm-eval's scores, whose keys are `metric,filter`, and its standard error.

    One item has no standard error. lm-eval then gives a text instead of a number, and no error is recorded.
    """
    by_metric = {key.partition(",")[0]: value for key, value in scores.items()}
    found = {name: by_metric[metric], error_of(name): by_metric[f"{metric}_stderr"]}
    return {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}


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


def _files(output: Mapping[str, Any]) -> dict[str, bytes]:
    """Two files by ending: lm-eval's results as lm-eval itself writes them, and its samples, one per line."""
    from lm_eval.utils import handle_non_serializable

    def text(data: Any, indent: int | None = None) -> str:
        return json.dumps(data, default=handle_non_serializable, indent=indent, ensure_ascii=False)

    results = {key: value for key, value in output.items() if key != "samples"}
    lines = [text(sample) for samples in output["samples"].values() for sample in samples]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    return {"lm_eval.json": text(results, indent=2).encode(), "samples.jsonl.gz": packed}
