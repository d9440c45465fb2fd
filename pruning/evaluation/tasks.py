"""Run tasks of lm-eval on a masked model in memory.

Tasks are loaded without a model. A task's digest covers its prompts and answers.


The requests of a task are built again for each mask. lm-eval's cache of responses is never used: the cache
does not distinguish masks, so a pruned model would get the dense model's answers.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pruning.core.hashing import text_sha256
from pruning.core.metric_names import error_of
from pruning.distributed import collectives
from pruning.evaluation import Measured
from pruning.evaluation.overlap import Document, haystack, words

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

METRICS = ("acc_norm", "acc")  # a task's accuracy is the first of these metrics that it has
# If this is 0, lm-eval reports no standard errors at all, although the standard error of a mean needs no bootstrap.
BOOTSTRAPS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EvalTask:
    """The first `limit` documents of a task of lm-eval (None: all); `task` is lm-eval's object."""

    task: Any
    source: str
    tokenizer: Any
    limit: int | None = None

    @property
    def metric(self) -> str | None:
        """lm-eval's name of the reported accuracy: `acc_norm` if the task has it, else `acc`, else None."""
        return next((name for name in METRICS if name in self.task.aggregation()), None)

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer. No model is needed."""
        self.task.set_config("num_fewshot", 0)
        with quiet():
            self.task.build_all_requests(limit=self.limit)
        grouped = groupby(self.task.instances, key=lambda instance: instance.doc_id)
        members = [list(group) for _, group in grouped]
        return [
            {"doc": m[0].doc, "asked": [i.arguments for i in m], "target": self.task.doc_to_target(m[0].doc)}
            for m in members
        ]

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, all answers, the right answers and the metric."""
        plain = [self.metric, [[r["asked"], r["target"]] for r in self.requests]]
        return text_sha256(json.dumps(plain, default=str))

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        return sum(haystack(calibration, self.tokenizer).holds(document) for document in self.documents())

    def documents(self) -> Iterator[Document]:
        """Yield each document as possible questions and answers. The names of the document's fields are not used."""
        for request in self.requests:
            contexts = dict.fromkeys(str(arguments[0]) for arguments in request["asked"])
            answers = dict.fromkeys(str(arguments[-1]) for arguments in request["asked"])
            texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
            # If the contexts of a document differ, as in WinoGrande, the contexts contain the choices, and all
            # answers are equal. Such answers are left out.
            choices = tuple(answers) if len(contexts) == 1 else ()
            yield Document(tuple(dict.fromkeys((*texts, *map(_question, contexts)))), choices)


def _question(context: str) -> str:
    """A prompt without the words "question" and "answer" that most templates put around a question."""
    prompt = words(context)
    return " ".join(prompt[int(prompt[:1] == ("question",)) : len(prompt) - int(prompt[-1:] == ("answer",))])


def accuracy(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The accuracy of a mask on a task, its standard error, and lm-eval's own results and samples.

    If there are several ranks, each answers a share of the requests; then all ranks get all answers.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from pruning.models.blocks import masked

    log.info("evaluating %s with %d blocks removed: %d items", name, len(mask.dropped), len(task.requests))
    module = forward.model.module
    with masked(module, mask, forward.scales), quiet(), _without_git():
        model = HFLM(pretrained=module, tokenizer=_complete(task.tokenizer), batch_size=batch_size)
        # If the first weights are on disk, lm-eval chooses the wrong device.
        model._device = forward.model.device
        model.loglikelihood = partial(_over_ranks, model.loglikelihood)
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=[task.task],
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            num_fewshot=0,
            limit=task.limit,
            bootstrap_iters=BOOTSTRAPS,
        )
    return collectives.on_first(lambda: _measured(name, task, results))


def _measured(name: str, task: EvalTask, output: Mapping[str, Any]) -> Measured:
    """The measurement from lm-eval's output. On each machine, lm-eval returns the output to one rank only."""
    label = task.task.task_name
    scores = output["results"][label]
    value, error = (_score(scores, f"{task.metric}{kind}") for kind in ("", "_stderr"))
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
    return Measured({name: value, error_of(name): error}, how, _files(output))


def _over_ranks(answer: Callable[..., Sequence[Any]], requests: Sequence[Any], **settings: Any) -> list[Any]:
    """The answers to all requests. Each rank answers its share; lm-eval itself knows of only one process."""
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


def _score(scores: Mapping[str, Any], metric: str) -> float:
    """The value of a metric in lm-eval's scores, whose keys are `metric,filter`.

    lm-eval gives no number for the standard error of a single item; it becomes 0.
    """
    value = next(value for key, value in scores.items() if key.partition(",")[0] == metric)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _files(output: Mapping[str, Any]) -> dict[str, bytes]:
    """Two files by ending: lm-eval's results as lm-eval itself writes them, and its samples, one per line."""
    from lm_eval.utils import handle_non_serializable

    def text(data: Any, indent: int | None = None) -> str:
        return json.dumps(data, default=handle_non_serializable, indent=indent, ensure_ascii=False)

    results = {key: value for key, value in output.items() if key != "samples"}
    lines = [text(sample) for samples in output["samples"].values() for sample in samples]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    return {"lm_eval.json": text(results, indent=2).encode(), "samples.jsonl.gz": packed}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-eval's warnings, which concern intended uses, and the progress bars of its short steps."""
    import lm_eval.api.model
    import lm_eval.api.task
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, silent = logging.getLogger("lm_eval"), are_progress_bars_disabled()
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = bar
        logger.setLevel(level)
        if not silent:
            enable_progress_bars()


@contextmanager
def _without_git() -> Iterator[None]:
    """Keep lm-eval from asking git about the current folder; outside a checkout, git prints an error."""
    import lm_eval.evaluator

    saved = lm_eval.evaluator.get_git_commit_hash
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = saved
