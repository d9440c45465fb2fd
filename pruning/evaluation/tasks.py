"""Tasks of lm-eval on a masked model: loaded without it, identified by their prompts, run on the model in memory.

What a task asks is built again for each mask, and lm-eval's cache of responses is never used: it does not know which
model an answer came from, so a pruned model would be given the dense one's answers.
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

METRICS = ("acc_norm", "acc")  # the first that a task has is its accuracy
BOOTSTRAPS = 1000  # any number above 0 makes lm-eval give standard errors; that of a mean has a closed form

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EvalTask:
    """The first `limit` documents of a task of lm-eval, or all; `task` is lm-eval's own object."""

    task: Any
    source: str
    tokenizer: Any
    limit: int | None = None

    @property
    def metric(self) -> str | None:
        """lm-eval's name of the accuracy that is reported: normalised by length where the task has that."""
        return next((name for name in METRICS if name in self.task.aggregation()), None)

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """For each document: its texts, what the model is asked, and what is right. Depends on no model."""
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
        """Digest of the exact prompts, answers, right answers and of the metric."""
        plain = [self.metric, [[r["asked"], r["target"]] for r in self.requests]]
        return text_sha256(json.dumps(plain, default=str))

    def shared(self, calibration: Samples, /) -> int:
        """How many documents stand in the calibration data."""
        return sum(haystack(calibration, self.tokenizer).holds(document) for document in self.documents())

    def documents(self) -> Iterator[Document]:
        """The documents as questions and answers, whatever their fields are called."""
        for request in self.requests:
            contexts = dict.fromkeys(str(arguments[0]) for arguments in request["asked"])
            answers = dict.fromkeys(str(arguments[-1]) for arguments in request["asked"])
            texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
            # Where the context differs, as for WinoGrande, it is the answer that all have in common.
            own = tuple(answers) if len(contexts) == 1 else ()
            yield Document(tuple(dict.fromkeys((*texts, *map(_question, contexts)))), own)


def _question(context: str) -> str:
    """A prompt without what most templates put around a question."""
    found = words(context)
    return " ".join(found[int(found[:1] == ("question",)) : len(found) - int(found[-1:] == ("answer",))])


def accuracy(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The accuracy of a mask on a task, its standard error, and lm-eval's own results and samples.

    Several ranks answer a share of the requests each, and all of them sum up.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from pruning.models.blocks import masked

    log.info("evaluating %s with %d blocks removed: %d items", name, len(mask.dropped), len(task.requests))
    module = forward.model.module
    with masked(module, mask, forward.scales), quiet(), _without_git():
        model = HFLM(pretrained=module, tokenizer=_complete(task.tokenizer), batch_size=batch_size)
        model._device = forward.model.device  # its own guess is no device where the first weights lie on disk
        model.loglikelihood = partial(_dealt, model.loglikelihood)
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[task.task],
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            num_fewshot=0,
            limit=task.limit,
            bootstrap_iters=BOOTSTRAPS,
        )
    return collectives.on_first(lambda: _measured(name, task, found))


def _measured(name: str, task: EvalTask, found: Mapping[str, Any]) -> Measured:
    """What lm-eval has found; of several ranks on a machine, it gives that to one only."""
    label = task.task.task_name
    scores = found["results"][label]
    value, error = (_score(scores, f"{task.metric}{kind}") for kind in ("", "_stderr"))
    how = {
        "source": task.source,
        "task": label,
        "version": str(found["versions"].get(label)),
        "lm_eval": found["lm_eval_version"],
        "metric": task.metric,
        "items": len(task.requests),
        "of": len(task.task.eval_docs),
        "limit": task.limit,
    }
    return Measured({name: value, error_of(name): error}, how, _files(found))


def _dealt(answer: Callable[..., Sequence[Any]], requests: Sequence[Any], **settings: Any) -> list[Any]:
    """The answers of all ranks, each of which is asked its share; for lm-eval, there is one process."""
    own = collectives.share_of(requests)
    return collectives.gather(answer(own, **settings) if own else [])


def _complete(tokenizer: Any) -> Any:
    """A copy that lm-eval may add a padding token to, with an end of text if it has neither that nor a beginning.

    lm-eval pads with it, which is masked, and puts it before an empty context; without either it fails.
    """
    own = copy.deepcopy(tokenizer)
    if own.bos_token_id is None and own.eos_token_id is None:
        own.eos_token = own.convert_ids_to_tokens(0)
    return own


def _score(scores: Mapping[str, Any], metric: str) -> float:
    """A number of lm-eval's, which names the filter behind a comma; 0 for the error of a single item."""
    value = next(value for key, value in scores.items() if key.partition(",")[0] == metric)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _files(found: Mapping[str, Any]) -> dict[str, bytes]:
    """lm-eval's results as it would write them, and its samples, one a line."""
    from lm_eval.utils import handle_non_serializable

    def text(data: Any, indent: int | None = None) -> str:
        return json.dumps(data, default=handle_non_serializable, indent=indent, ensure_ascii=False)

    results = {key: value for key, value in found.items() if key != "samples"}
    lines = [text(sample) for samples in found["samples"].values() for sample in samples]
    packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    return {"lm_eval.json": text(results, indent=2).encode(), "samples.jsonl.gz": packed}


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's remarks on uses that it cannot know to be meant, and without bars of what takes no time."""
    import lm_eval.api.model
    import lm_eval.api.task
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, silent = logging.getLogger("lm_eval"), are_progress_bars_disabled()
    level, own = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = lambda found, **_: found
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = lm_eval.api.model.tqdm = own
        logger.setLevel(level)
        if not silent:
            enable_progress_bars()


@contextmanager
def _without_git() -> Iterator[None]:
    """lm-eval asks git about the folder that it is run in, and git complains loudly where that is no checkout."""
    import lm_eval.evaluator

    saved = lm_eval.evaluator.get_git_commit_hash
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = saved
