"""Tasks of lm-eval as evaluation data. They are loaded without a model.

A task's digest covers its prompts and answers.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any, Protocol

from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.items import encode_pair
from pruning.calibration.samples import Row
from pruning.core.errors import InputError, RequestError, unknown
from pruning.core.records import error_of, plain_of
from pruning.core.storage import text_sha256
from pruning.engine import collectives
from pruning.evaluation import Measured
from pruning.evaluation.corpora import short, terms_file
from pruning.evaluation.text_overlap import Document, haystack, words

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


FEWSHOT_SEED = 1234  # lm-eval's own default
METRICS = ("acc_norm", "acc")  # a task's accuracy is the first of these metrics that it has


@dataclass(frozen=True, eq=False)
class EvalTask:
    """The first `limit` documents of a task of lm-eval (None: all); `task` is lm-eval's object.

    If the documents are items of a local file, `items` and `template` say what must be asked. `fewshot` examples are
    put before each question. `scorer` says what answers the requests; see `engine_answers`.
    """

    task: Any
    source: str
    tokenizer: Any
    limit: int | None = None
    items: tuple[Item, ...] = ()
    template: str = ""
    fewshot: int = 0
    scorer: str = "lm_eval"

    @property
    def local(self) -> bool:
        """Whether the documents are items of a local file."""
        return bool(self.items)

    @property
    def metric(self) -> str | None:
        """lm-eval's name of the reported accuracy: `acc_norm` if the task has it, else `acc`, else None."""
        return next((name for name in METRICS if name in self.task.aggregation()), None)

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer. No model is needed."""
        self.task.set_config("num_fewshot", self.fewshot)
        self.task.set_fewshot_seed(FEWSHOT_SEED)
        with quiet():
            self.task.build_all_requests(limit=self.limit)
        grouped = groupby(self.task.instances, key=lambda instance: instance.doc_id)
        members = [list(group) for _, group in grouped]
        return [
            {"doc": m[0].doc, "asked": [i.arguments for i in m], "target": self._target(number, m[0].doc)}
            for number, m in enumerate(members)
        ]

    def _target(self, number: int, document: Any) -> Any:
        # For a task of several contexts, lm-eval's target is the continuation, whichever context is right.
        return self.items[number].answer if self.items else self.task.doc_to_target(document)

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """All requests, in order: contexts and continuations."""
        return [tuple(arguments) for request in self.requests for arguments in request["asked"]]

    def check_requests(self) -> None:
        """Raise RequestError if lm-eval's requests are not those that the items and the template give."""
        items = self.items[: self.limit]
        check_equal(self.asked, [pair for item in items for pair in item.pairs(self.template)], self.source)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The token rows of all requests, for the engine."""
        return rows_of(self.requests, self.tokenizer)

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, all answers, the right answers, the metric and the scorer."""
        plain = [self.metric, [[r["asked"], r["target"]] for r in self.requests]]
        if self.scorer != "lm_eval":
            plain.append(self.scorer)
        return text_sha256(json.dumps(plain, default=str))

    def check_answers(self) -> None:
        """Raise InputError if an answer has no tokens of its own after its context, so that nothing can be scored."""
        for pair, (context, whole) in zip(self.asked, token_counts(self.asked, self.tokenizer), strict=True):
            if not 0 < context < whole:
                raise InputError(
                    f"{self.source}: the answer {pair[1]!r} has no tokens of its own after the prompt {pair[0]!r}: "
                    "change the item or the template."
                )

    def too_long(self, most: int) -> list[int]:
        """The numbers, from 0, of the documents with a request that a model of `most` tokens cannot read whole.

        The last token of a request is only scored and never read, so a request may have `most` + 1 tokens.
        """
        numbered = [(n, pair) for n, request in enumerate(self.requests) for pair in request["asked"]]
        long = [(n, pair) for n, pair in numbered if might_exceed(pair, most)]
        counts = token_counts([pair for _, pair in long], self.tokenizer)
        return sorted({n for (n, _), (_, whole) in zip(long, counts, strict=True) if whole > most + 1})

    @property
    def pieces(self) -> list[Hashable]:
        """The requests of each document, to find documents that occur more than once."""
        return [tuple(map(tuple, request["asked"])) for request in self.requests]

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another document."""
        return len(self.pieces) - len(set(self.pieces))

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        return sum(haystack(calibration, self.tokenizer).holds(document) for document in self.documents())

    def documents(self) -> Iterator[Document]:
        """Yield each document as possible questions and answers. The names of the document's fields are not used."""
        for number, request in enumerate(self.requests):
            contexts = dict.fromkeys(str(arguments[0]) for arguments in request["asked"])
            answers = dict.fromkeys(str(arguments[-1]) for arguments in request["asked"])
            texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
            # With examples, every context holds the same ones, so a context says nothing about its own document.
            asked = map(_question, contexts) if not self.fewshot else ()
            # If the contexts of a document differ, as in WinoGrande, the contexts contain the choices, and all
            # answers are equal. Such answers are left out.
            choices = tuple(answers) if len(contexts) == 1 else ()
            key = (self.items[number].key,) if self.items else ()
            yield Document(tuple(dict.fromkeys((*texts, *asked))), choices, key)


def _question(context: str) -> str:
    """A prompt without the words "question" and "answer" that most templates put around a question."""
    prompt = words(context)
    return " ".join(prompt[int(prompt[:1] == ("question",)) : len(prompt) - int(prompt[-1:] == ("answer",))])


def check_equal(sent: Sequence[Any], wanted: Sequence[Any], source: str) -> None:
    """Raise RequestError, which shows the first difference, if lm-eval's requests are not those that are wanted."""
    if list(sent) == list(wanted):
        return
    pairs = zip_longest(sent, wanted)
    number, (one, other) = next((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    raise RequestError(
        f"{source}: request {number} to the model would be {one!r} instead of {other!r}, so nothing was measured. "
        "Use the version of lm-eval that constraints.txt names."
    )


# Measure the accuracy of a masked model in memory on a task of lm-eval; `lm_eval_run.py` says how it is asked.

log = logging.getLogger(__name__)


def accuracy(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The accuracy of a mask on a task, its standard error, and lm-eval's own results and samples.

    Raises RequestError if lm-eval sends other requests than those of the task's digest.
    """
    from pruning.models.architecture import context_length_of
    from pruning.models.sublayers import masked

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


# Answer lm-eval's multiple-choice requests with the engine instead of lm-eval's own model: `eval.scorer=engine`.
#
# The answers to a question share its prompt, and only their tokens are projected to the vocabulary, which takes a
# fraction of lm-eval's time. Logits are normalised in float32; lm-eval's model does so in the model's own precision.

SCORERS = ("lm_eval", "engine")
COUNTED = {"acc", "acc_norm"}  # the metrics of lm-eval that need nothing but log-likelihoods


def check_scorer(scorer: str) -> None:
    """Raise InputError if there is no such scorer."""
    if scorer not in SCORERS:
        raise unknown("eval.scorer", scorer, SCORERS)


def check_countable(task: Any, source: str) -> None:
    """Raise InputError if a task of lm-eval needs more than the log-likelihoods of its choices."""
    if task.OUTPUT_TYPE != "multiple_choice" or not {*task.aggregation()} <= COUNTED:
        raise InputError(
            f"eval.scorer=engine scores multiple-choice tasks by {' and '.join(sorted(COUNTED))}, but {source} "
            f"({task.OUTPUT_TYPE}) has {', '.join(task.aggregation())}: set eval.scorer=lm_eval."
        )


def rows_of(requests: Sequence[Any], tokenizer: Any) -> tuple[Row, ...]:
    """The token rows of each document's requests, as lm-eval makes them.

    Raises InputError if an answer has no tokens of its own.
    """
    return tuple(
        Row(*_encoded(tokenizer, *asked), number, choice, choice == request["target"])
        for number, request in enumerate(requests)
        for choice, asked in enumerate(request["asked"])
    )


def _encoded(tokenizer: Any, context: str, answer: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The token ids of a request, and the span of its answer; spaces at the end of a context belong to the answer."""
    if context:
        prompt = context.rstrip()
        return encode_pair(tokenizer, prompt, context[len(prompt) :] + answer)
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    first = prefix_token(tokenizer)
    if ids[:1] != [first]:
        ids = [first, *ids]
    if len(ids) < 2:
        raise InputError(f"the answer {answer!r} has no tokens of its own after an empty prompt.")
    return tuple(ids), (1, len(ids))


def answers(forward: Forward, mask: Mask, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """The log-likelihood of each row under a mask, in lm-eval's form; nothing is said about greedy decoding."""
    ((_, found, _),) = forward.loglikelihoods(rows, [mask])
    return [(value, False) for value in found]


# Keep lm-eval from printing what concerns nobody here.


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
def without_git() -> Iterator[None]:
    """Keep lm-eval from asking git about the current folder; outside a checkout, git prints an error."""
    import lm_eval.evaluator

    saved = lm_eval.evaluator.get_git_commit_hash
    lm_eval.evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        lm_eval.evaluator.get_git_commit_hash = saved


# How many tokens a request of lm-eval has, tokenised as lm-eval does it.

SPECIAL = 4  # more special tokens than any tokenizer adds to a text

Pair = Sequence[str]  # a context and a continuation


def token_counts(pairs: Sequence[Pair], tokenizer: Any) -> list[tuple[int, int]]:
    """For each pair, the number of tokens of its context, and of context and continuation together.

    As in lm-eval, spaces at the end of a context belong to the continuation, and an empty context is one token.
    """
    contexts = [pair[0].rstrip() for pair in pairs]
    counts = _counts([*contexts, *(pair[0] + pair[1] for pair in pairs)], tokenizer)
    found = []
    for context, pair in zip(contexts, pairs, strict=True):
        # A tokenizer that puts a token before every text adds it itself.
        added = int(not pair[0] and counts[""] == 0)
        found.append((counts[context] + added, counts[pair[0] + pair[1]] + added))
    return found


def prefix_token(tokenizer: Any) -> int:
    """The token that lm-eval puts before an empty context: beginning of text, end of text, or else token 0."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None), 0)


def might_exceed(pair: Pair, most: int) -> bool:
    """False if a pair certainly has at most `most` tokens, since a token stands for at least one byte."""
    return len((pair[0] + pair[1]).encode()) + SPECIAL > most


def _counts(texts: Sequence[str], tokenizer: Any) -> dict[str, int]:
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    rows = tokenizer(distinct, verbose=False).input_ids
    return {text: len(ids) for text, ids in zip(distinct, rows, strict=True)}


# Let lm-eval ask a model in memory the questions of one task.
#
# Each task is asked by itself: a batch never mixes tasks, since another padding rounds bfloat16 differently.
#
# The requests of a task are built again for each mask. lm-eval's cache of responses is never used: the cache
# does not distinguish masks, so a pruned model would get the dense model's answers.

# If this is 0, lm-eval reports no standard errors at all, although the standard error of a mean needs no bootstrap.
BOOTSTRAPS = 1000


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


# A task of lm-eval on items of a local file.
#
# lm-eval fills in templates with Jinja and converts the result: a prompt of digits becomes a number. If the first
# prompt is a number, lm-eval expects several contexts and asks no question. So lm-eval gets no template. Every
# field of the task is the name of a field of the documents, which lm-eval returns as it is.


def item_task(name: str, items: Sequence[Item], template: str, source: str, **options: Any) -> EvalTask:
    """The task that asks these items; `options` are the tokenizer and the limit of an `EvalTask`.

    Raises RequestError if lm-eval's requests differ from those that the items and the template give, and InputError
    if an answer cannot be scored.
    """
    task = EvalTask(
        _task(name, items, template, source), source, items=tuple(items), template=template, **options
    )
    task.check_requests()
    task.check_answers()
    return task


def _task(name: str, items: Sequence[Item], template: str, source: str) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    documents = [_document(item, template) for item in items]
    with quiet():
        data = {"test": datasets.Dataset.from_list(documents)}
        task = ConfigurableTask(config=_settings(name, items[0]) | {"custom_dataset": lambda **_: data})
    # lm-eval records its settings, so they name the file of the items instead of the function above.
    task.set_config("custom_dataset", None)
    task.set_config("dataset_kwargs", {"data_files": {"test": source}})
    return task


def _document(item: Item, template: str) -> dict[str, Any]:
    """The fields that lm-eval reads. If the choices are contexts, `answer` takes the place of the prompt."""
    if item.continuation is not None:
        return {"choices": list(item.choices), "continuation": item.continuation, "answer": item.answer}
    prompt = template.replace(FIELD, item.question)
    return {"question": item.question, "prompt": prompt, "choices": list(item.choices), "answer": item.answer}


def _settings(name: str, first: Item) -> dict[str, Any]:
    contexts = first.continuation is not None
    # Dividing by the length of a choice compares continuations. Contexts of different lengths have the same one.
    metrics = ("acc",) if contexts else ("acc", "acc_norm")
    return {
        "task": name,
        "dataset_path": "json",
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "answer" if contexts else "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "continuation" if contexts else "answer",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics
        ],
        "metadata": {"version": 1.0},
    }
