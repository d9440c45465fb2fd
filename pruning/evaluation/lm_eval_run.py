"""Let lm-eval ask a model in memory the questions of one task.

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
from typing import TYPE_CHECKING, Any, Protocol

from pruning.distributed import collectives
from pruning.evaluation.lm_eval_quiet import quiet, without_git
from pruning.evaluation.request_lengths import prefix_token
from pruning.evaluation.tasks import check_equal

if TYPE_CHECKING:
    from pruning.engine.forward import Forward

# If this is 0, lm-eval reports no standard errors at all, although the standard error of a mean needs no bootstrap.
BOOTSTRAPS = 1000

log = logging.getLogger(__name__)


class AskedTask(Protocol):
    """A task of lm-eval with its requests; see `EvalTask` and `GenerationTask`."""

    @property
    def task(self) -> Any:
        """lm-eval's object."""
        ...

    @property
    def source(self) -> str:
        """The origin of the documents."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        ...

    @property
    def limit(self) -> int | None:
        """At most this many documents are asked; None: all."""
        ...

    @property
    def fewshot(self) -> int:
        """The number of examples in each prompt."""
        ...

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests of each document."""
        ...

    @property
    def asked(self) -> Sequence[Any]:
        """All requests, in order."""
        ...

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another document."""
        ...

    def too_long(self, most: int) -> list[int]:
        """The numbers of the documents that a model of `most` tokens cannot read whole."""
        ...


def ask(
    name: str,
    forward: Forward,
    module: Any,
    task: AskedTask,
    batch_size: int,
    answers: Sequence[Any] | None = None,
) -> tuple[Any, int]:
    """lm-eval's output for a task, and the number of items that lm-eval has shortened.

    `module` is the model as it is asked: without the units of a mask. If there are several ranks, each answers a
    share of the requests; then all ranks get all answers. If `answers` are given, they answer the log-likelihood
    requests, unless the model cannot read all items whole. Raises RequestError if lm-eval sends other requests than
    those of the task's digest.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    with quiet(), without_git():
        model = HFLM(
            pretrained=module,
            tokenizer=complete(task.tokenizer),
            batch_size=batch_size,
            trust_remote_code=False,
        )
        # If the first weights are on disk, lm-eval chooses the wrong device.
        model._device = forward.model.device
        shortened = len(task.too_long(model.max_length))
        for kind in ("loglikelihood", "generate_until"):
            setattr(model, kind, partial(_over_ranks, getattr(model, kind), task))
        if answers is not None and not shortened:
            model.loglikelihood = partial(_known, list(answers), task)
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[task.task],
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            num_fewshot=task.fewshot,
            limit=task.limit,
            bootstrap_iters=BOOTSTRAPS,
        )
    if shortened:
        log.warning(
            "%s: %d of %d items are longer than the %d tokens that the model reads; lm-eval cut off their beginning",
            *(name, shortened, len(task.requests), model.max_length),
        )
    return results, shortened


def record(task: AskedTask, output: Mapping[str, Any], metric: str | None, shortened: int) -> dict[str, Any]:
    """The record of how a task was asked."""
    label = task.task.task_name
    how = {
        "source": task.source,
        "task": label,
        "version": str(output["versions"].get(label)),
        "lm_eval": output["lm_eval_version"],
        "metric": metric,
        "items": len(task.requests),
        "of": len(task.task.eval_docs),
        "limit": task.limit,
    }
    # These are recorded only if there are any, so that other measurements look as they did before.
    some = (("fewshot", task.fewshot), ("shortened", shortened), ("repeated", task.repeated))
    return how | {key: n for key, n in some if n}


def _over_ranks(
    answer: Callable[..., Sequence[Any]], task: AskedTask, requests: Sequence[Any], **settings: Any
) -> list[Any]:
    """The answers to all requests. Each rank answers its share; lm-eval itself knows of only one process."""
    check_equal([tuple(request.args) for request in requests], task.asked, task.source)
    share = collectives.share_of(requests)
    return collectives.gather(answer(share, **settings) if share else [])


def _known(answers: list[Any], task: AskedTask, requests: Sequence[Any]) -> list[Any]:
    """The answers that are computed elsewhere, if these are the requests of the task."""
    check_equal([tuple(request.args) for request in requests], task.asked, task.source)
    return answers


def complete(tokenizer: Any) -> Any:
    """A copy of a tokenizer with an end-of-text or beginning-of-text token. lm-eval can change the copy.

    If the tokenizer has neither a beginning-of-text nor an end-of-text token, token 0 becomes its end-of-text token.
    lm-eval pads with this token (padding is masked) and puts it before an empty context. Without such a token,
    lm-eval fails.
    """
    copied = copy.deepcopy(tokenizer)
    if copied.bos_token_id is None and copied.eos_token_id is None:
        copied.eos_token = copied.convert_ids_to_tokens(prefix_token(copied))
    return copied


def value_and_error(name: str, error: str, value: Any, deviation: Any) -> dict[str, float]:
    """A value of lm-eval and its standard error, under these names.

    One item has no standard error. lm-eval then gives a text instead of a number, and no error is recorded.
    """
    found = {name: value, error: deviation}
    return {key: float(number) for key, number in found.items() if isinstance(number, (int, float))}


def lm_eval_files(output: Mapping[str, Any]) -> dict[str, bytes]:
    """Two files by ending: lm-eval's results as lm-eval itself writes them, and its samples, one per line."""
    from lm_eval.utils import handle_non_serializable

    def text(data: Any, indent: int | None = None) -> str:
        return json.dumps(data, default=handle_non_serializable, indent=indent, ensure_ascii=False)

    results = {key: value for key, value in output.items() if key != "samples"}
    lines = [text(sample) for samples in output["samples"].values() for sample in samples]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    return {"lm_eval.json": text(results, indent=2).encode(), "samples.jsonl.gz": packed}
