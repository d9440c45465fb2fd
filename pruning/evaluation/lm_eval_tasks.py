"""Tasks of lm-eval as evaluation data, and how lm-eval sends their requests to a masked model in memory.

lm-eval makes the requests without a model, so the digest of a task's prompts and answers is known before a
model is loaded. Each task is run separately, so that no batch mixes tasks: padding to another length changes
rounding in bfloat16. lm-eval's cache of responses is never used, because it does not distinguish masks.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from pruning.calibration.item_files import FIELD, Item
from pruning.calibration.samples import Row
from pruning.calibration.sources import hub_errors
from pruning.calibration.text import start_tokens
from pruning.core.errors import (
    InputError,
    RequestError,
    UnreachableError,
    check_least,
    first_line,
    near_names,
    unknown,
)
from pruning.core.records import TERMS, error_of, filtered_of, metrics_among, plain_of
from pruning.core.storage import text_sha256
from pruning.core.wheels import use_hub
from pruning.engine import collectives
from pruning.evaluation import Data, Evaluation, Measured, check_names, short, terms_file
from pruning.evaluation.text_overlap import Haystack, haystack

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


log = logging.getLogger(__name__)

METRICS = ("acc_norm", "acc")  # a multiple-choice task's accuracy is the first of these metrics that it has
EXACT = "exact_match"  # the share of right answers, if answers are generated
SCORERS = ("lm_eval", "engine")
FEWSHOT_SEED = 1234  # lm-eval's own default
NEW_TOKENS = 256  # lm-eval's default
# lm-eval's names for the maximum number of new tokens. The first one that a task sets is used.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, eq=False)
class EvalTask:
    """The first `limit` documents (None: all) of an lm-eval task; `task` is lm-eval's object.

    If the documents come from a local file, `items` are its items. `fewshot` is the number of examples before
    each question. `scorer` says whether lm-eval (`lm_eval`) or this program (`engine`) scores multiple-choice
    answers. The engine runs a question's prompt only once for all answers, which is faster, and normalises
    logits in float32; lm-eval normalises them in the model's precision.
    """

    task: Any
    source: str
    tokenizer: Any
    limit: int | None = None
    items: tuple[Item, ...] = ()
    fewshot: int = 0
    scorer: str = "lm_eval"

    @property
    def generated(self) -> bool:
        """Whether the model writes the answers."""
        return bool(self.task.OUTPUT_TYPE == "generate_until")

    @property
    def metric(self) -> str | None:
        """lm-eval's name of the reported accuracy: `acc_norm` if the task has it, else `acc`, else None."""
        return next((name for name in METRICS if name in self.task.aggregation()), None)

    @property
    def new_tokens(self) -> int:
        """The maximum number of tokens in a generated answer."""
        settings = self.task.config.generation_kwargs or {}
        return int(next((settings[name] for name in LENGTHS if settings.get(name) is not None), NEW_TOKENS))

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer. No model is needed."""
        self.task.set_config("num_fewshot", self.fewshot)
        self.task.set_fewshot_seed(FEWSHOT_SEED)
        with quiet():
            self.task.build_all_requests(limit=self.limit)
        groups = [list(group) for _, group in groupby(self.task.instances, key=lambda one: one.doc_id)]
        return [
            {"doc": doc, "asked": [one.arguments for one in group], "target": self.task.doc_to_target(doc)}
            for group in groups
            for doc in [group[0].doc]
        ]

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """All requests of lm-eval, with repeats: contexts, each with a continuation or generation settings."""
        times = range(self.task.config.repeats or 1)
        return [tuple(asked) for request in self.requests for asked in request["asked"] for _ in times]

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, all answers, the right answers, the metric and the scorer."""
        plain = [self.metric, [[r["asked"], r["target"]] for r in self.requests]]
        if self.scorer != "lm_eval":
            plain.append(self.scorer)
        digest = text_sha256(json.dumps(plain, default=str))
        return text_sha256(json.dumps([EXACT, digest, []])) if self.generated else digest

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The token rows of all requests, for the engine.

        Raises InputError if an answer has no tokens of its own after its context, so that nothing can be scored.
        """
        tokens = iter(encoded([asked for r in self.requests for asked in r["asked"]], self.tokenizer))
        rows = []
        for number, request in enumerate(self.requests):
            for choice, asked in enumerate(request["asked"]):
                ids, start = next(tokens)
                if not 0 < start < len(ids):
                    raise InputError(
                        f"{self.source}: the answer {asked[1]!r} has no tokens of its own after the prompt "
                        f"{asked[0]!r}: change the item or the template."
                    )
                rows.append(Row(ids, (start, len(ids)), number, choice, choice == request["target"]))
        return tuple(rows)

    def too_long(self, most: int) -> list[int]:
        """The indices of the documents with a request that is too long for a context of `most` tokens."""
        # The last token of a choice is only scored and never read.
        room = most - self.new_tokens if self.generated else most + 1
        pairs = [
            (number, (str(asked[0]), "" if self.generated else asked[1]))
            for number, request in enumerate(self.requests)
            for asked in request["asked"]
        ]
        # A token stands for at least one byte, so only requests with too many bytes are tokenised.
        long = [(n, pair) for n, pair in pairs if len("".join(pair).encode()) + SPECIAL > room]
        whole = encoded([pair for _, pair in long], self.tokenizer)
        return sorted({n for (n, _), (ids, _) in zip(long, whole, strict=True) if len(ids) > room})

    @property
    def members(self) -> tuple[EvalTask, ...]:
        """Only this task; `TaskGroup.members` has all tasks of a group."""
        return (self,)

    @property
    def pieces(self) -> list[str]:
        """The requests of each document as text, which show whether a document occurs more than once."""
        return [str(request["asked"]) for request in self.requests]

    def shared(self, calibration: Samples, /) -> int:
        """The number of the task's documents that are also in the calibration data."""
        known = haystack(calibration, self.tokenizer)
        return sum(self._held(known, number) for number in range(len(self.requests)))

    def _held(self, known: Haystack, number: int) -> bool:
        """Whether the calibration data contain document `number`. The names of its text fields do not matter."""
        request = self.requests[number]
        contexts = list(dict.fromkeys(str(asked[0]) for asked in request["asked"]))
        questions = [text for text in request["doc"].values() if isinstance(text, str) and " " in text]
        # If the contexts of a document differ, as in WinoGrande, they contain the choices, and all answers are equal.
        choices = () if self.generated or len(contexts) > 1 else [asked[-1] for asked in request["asked"]]
        if not (self.generated or self.fewshot):  # few-shot contexts contain the same examples
            questions += contexts
        if self.items and self.items[number].key in known.keys:
            return True
        return any(known.holds(question, tuple(choices)) for question in questions)


def check_asking(settings: Any) -> None:
    """Raise InputError if a setting that all lm-eval evaluations share is invalid."""
    check_names("eval.tasks", getattr(settings, "tasks", ()))
    check_least("eval", settings, limit=1, batch_size=1)
    if (scorer := getattr(settings, "scorer", "lm_eval")) not in SCORERS:
        raise unknown("eval.scorer", scorer, SCORERS)


# The measurement of a masked model.


def _measured_task(name: str, forward: Forward, task: EvalTask, mask: Mask, batch_size: int) -> Measured:
    """The measurement of one task.

    If there are several ranks, each answers a share of the requests; then all ranks get all answers. Raises
    RequestError if lm-eval's requests are not those of the task's digest, and InputError as `generating` does.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from pruning.models.sublayers import masked

    # Outside a checkout, git prints an error if lm-eval asks it about the current folder.
    with quiet(), patch("lm_eval.evaluator.get_git_commit_hash", lambda: None):
        model = HFLM(
            pretrained=forward.model.module,
            tokenizer=_complete(task.tokenizer),
            batch_size=batch_size,
            trust_remote_code=False,
        )
        model._device = (
            forward.model.device
        )  # if the first parameter is on disk, lm-eval chooses the wrong device
        answers = None
        if shortened := len(task.too_long(model.max_length)):
            log.warning(
                "%s: %d of %d items are longer than the %d tokens that the model reads; lm-eval cuts off their start",
                *(name, shortened, len(task.requests), model.max_length),
            )
        elif task.scorer == "engine":
            ((_, values, _),) = forward.loglikelihoods(task.rows, [mask])
            # In lm-eval's form: a value, and whether greedy decoding gives the answer, which nothing uses here.
            answers = [(value, False) for value in values]
        for kind in ("loglikelihood", "generate_until"):
            setattr(model, kind, partial(_answered, getattr(model, kind), task, answers))
        reading = _read_in_time(task) if task.generated else nullcontext()
        with (
            reading,
            generating(forward, mask) if task.generated else masked(model.model, mask, forward.scales),
        ):
            output = lm_eval.simple_evaluate(
                model=model,
                tasks=[task.task],
                task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
                num_fewshot=task.fewshot,
                limit=task.limit,
                # Without bootstrap, lm-eval reports no standard errors at all, not even that of a mean.
                bootstrap_iters=1000,
            )
    # On each machine, lm-eval returns the output to one rank only.
    return collectives.on_first(lambda: _measured(name, task, output, shortened))


def generating(forward: Forward, mask: Mask) -> AbstractContextManager[None]:
    """A context in which the model lacks a mask's units and can generate text.

    Generation needs a cache, with which units cannot be skipped, so they are removed from the model in memory.
    Raises InputError, as an export does, if no configuration of the architecture describes the smaller model.
    """
    from pruning.models.removal import blocks_removed, smaller_config

    module = forward.model.module
    return blocks_removed(module, mask, smaller_config(module, mask)) if mask.dropped else nullcontext()


READING = 60.0  # seconds for a task's regular expressions; ordinary ones need milliseconds


@contextmanager
def _read_in_time(task: EvalTask) -> Iterator[None]:
    """A context in which lm-eval's reading of the answers raises InputError after `READING` seconds.

    Filters read all answers in one call, metrics those of one document. Python's `re` has no time limit, but it lets
    signals interrupt it. Signals reach only the main thread, and Windows has no such timer: elsewhere, time is not
    limited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: object) -> None:
        raise InputError(
            f"task {task.task.task_name}: reading the answers took longer than {READING:g} s. A regular expression "
            "of the task needs exponential time, such as (a+)+b: change regex_pattern or regexes_to_ignore in its "
            "YAML file."
        )

    def limited(read: Callable[..., Any]) -> Callable[..., Any]:
        def within(*given: Any, **named: Any) -> Any:
            before = signal.signal(signal.SIGALRM, late)
            signal.setitimer(signal.ITIMER_REAL, READING)
            try:
                return read(*given, **named)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)

        return within

    of = task.task
    with (
        patch.object(of, "apply_filters", limited(of.apply_filters)),
        patch.object(of, "process_results", limited(of.process_results)),
    ):
        yield


def _answered(
    answer: Callable[..., Sequence[Any]],
    task: EvalTask,
    known: Sequence[Any] | None,
    requests: Sequence[Any],
    **settings: Any,
) -> list[Any]:
    """All answers, on all ranks: `known` if it is given; otherwise, each rank answers its share of the requests.

    lm-eval itself sees only one process. Raises RequestError if the requests are not those of the task.
    """
    if [tuple(request.args) for request in requests] != task.asked:
        raise RequestError(
            f"{task.source}: lm-eval asks the model other requests than those of the digest, so nothing was "
            "measured. Use the version of lm-eval that constraints.txt names."
        )
    if known is not None:
        return list(known)
    share = collectives.share_of(requests)
    return collectives.gather(answer(share, **settings) if share else [])


def _measured(name: str, task: EvalTask, output: Mapping[str, Any], shortened: int) -> Measured:
    """The measurement from lm-eval's output, whose scores have keys `metric,filter`.

    If several filters extract answers, metric `name` uses the first; each other filter has its own metric.
    """
    label, main = task.task.task_name, EXACT if task.generated else str(task.metric)
    scores = output["results"][label]
    first, *others = (key.partition(",")[2] for key in scores if key.startswith(f"{main},"))
    metrics = _scores(name, scores, main, first)
    if task.generated:
        for way in others:
            metrics |= _scores(filtered_of(name, way), scores, main, way)
    elif main != "acc" and "acc" in task.task.aggregation():
        metrics |= _scores(plain_of(name), scores, "acc", first)
    # lm-eval's samples have these values, too. With their prompts, they are a hundred times as large.
    samples = [sample for sample in output["samples"][label] if sample["filter"] == first]
    terms: dict[str, Any] = {"hits": [float(sample[main]) for sample in samples]}
    how = {
        "source": task.source,
        "task": label,
        "version": str(output["versions"].get(label)),
        "lm_eval": output["lm_eval_version"],
        "metric": f"{main}, {first}" if task.generated else main,
        "items": len(task.requests),
        "of": len(task.task.eval_docs),
        "limit": task.limit,
    }
    repeated = len(task.pieces) - len(set(task.pieces))
    some = {"fewshot": task.fewshot, "shortened": shortened, "repeated": repeated}
    how |= {key: n for key, n in some.items() if n}
    if task.generated:
        how["generation"] = dict(task.task.config.generation_kwargs or {})
    else:
        terms["loglikelihoods"] = [[short(one[0]) for one in sample["filtered_resps"]] for sample in samples]
    return Measured(metrics, how, {**_lm_eval_files(output), **terms_file(terms)})


def _scores(name: str, scores: Mapping[str, Any], metric: str, way: str) -> dict[str, float]:
    """A score and its standard error; only the score if lm-eval gives a string as the error (for a single item)."""
    found = {name: scores[f"{metric},{way}"], error_of(name): scores.get(f"{metric}_stderr,{way}")}
    return {key: float(number) for key, number in found.items() if isinstance(number, (int, float))}


def _lm_eval_files(output: Mapping[str, Any]) -> dict[str, bytes]:
    """The text of two files, by suffix: lm-eval's results, in its own format, and its samples, one per line."""
    from lm_eval.utils import handle_non_serializable

    text = partial(json.dumps, default=handle_non_serializable, ensure_ascii=False)
    results = {key: value for key, value in output.items() if key != "samples"}
    lines = [f"{text(sample)}\n" for samples in output["samples"].values() for sample in samples]
    packed = gzip.compress("".join(lines).encode(), mtime=0)
    return {"lm_eval.json": text(results, indent=2).encode(), "samples.jsonl.gz": packed}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-eval's warnings (what they warn of is intended) and its progress bars for short steps."""
    import lm_eval.api.model
    import lm_eval.api.task
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, silent = logging.getLogger("lm_eval"), are_progress_bars_disabled()
    level, plain = logger.level, lambda items, **_: items
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        with patch.object(lm_eval.api.task, "tqdm", plain), patch.object(lm_eval.api.model, "tqdm", plain):
            yield
    finally:
        logger.setLevel(level)
        if not silent:
            enable_progress_bars()


# Tokens of a request, as lm-eval makes them.

SPECIAL = 4  # more special tokens than any tokenizer adds to a text


def encoded(pairs: Sequence[Sequence[str]], tokenizer: Any) -> list[tuple[tuple[int, ...], int]]:
    """For each context and continuation, the token ids of both together, and how many belong to the context.

    As in lm-eval, a context's trailing spaces belong to the continuation, and an empty context is one token.
    """
    first, empty = start_tokens(tokenizer), _prefix_token(tokenizer)
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair[0].rstrip(), pair[0] + pair[1])))
    rows = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
    tokens = dict(zip(texts, map(tuple, rows), strict=True))
    found = []
    for pair in pairs:
        whole = tokens[pair[0] + pair[1]]
        if pair[0]:
            found.append(((*first, *whole), len(first) + len(tokens[pair[0].rstrip()])))
        else:
            found.append((whole if whole[:1] == (empty,) else (empty, *whole), 1))
    return found


def _prefix_token(tokenizer: Any) -> int:
    """The token that lm-eval puts before an empty context: beginning of text, end of text, or else token 0."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None), 0)


def _complete(tokenizer: Any) -> Any:
    """A copy of a tokenizer for lm-eval to change. lm-eval needs BOS or EOS; if both are missing, an EOS is added."""
    copied = copy.deepcopy(tokenizer)
    if copied.bos_token_id is None and copied.eos_token_id is None:
        copied.eos_token = copied.convert_ids_to_tokens(_prefix_token(copied))
    return copied


# A task of lm-eval on items of a local file.


def item_task(name: str, items: Sequence[Item], template: str, source: str, **options: Any) -> EvalTask:
    """The task of these items; `options` are the tokenizer, the limit and the scorer of an `EvalTask`.

    lm-eval fills in templates with Jinja and converts the result: a prompt of digits becomes a number. So
    lm-eval gets no template: each `doc_to_*` setting names a field of the documents, whose value lm-eval uses
    unchanged. Raises InputError if an answer cannot be scored.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask

    def document(item: Item) -> dict[str, Any]:
        asked = {"question": item.question, "prompt": template.replace(FIELD, item.question)}
        return {**asked, "choices": list(item.choices), "answer": item.answer}

    with quiet():
        data = {"test": datasets.Dataset.from_list([document(item) for item in items])}
        task = ConfigurableTask(
            config={
                "task": name,
                "dataset_path": "json",
                "output_type": "multiple_choice",
                "test_split": "test",
                "doc_to_text": "prompt",
                "doc_to_choice": "choices",
                "doc_to_target": "answer",
                "num_fewshot": 0,
                "metric_list": [
                    {"metric": one, "aggregation": "mean", "higher_is_better": True}
                    for one in ("acc", "acc_norm")
                ],
                "metadata": {"version": 1.0},
                "custom_dataset": lambda **_: data,
            }
        )
    # lm-eval records these settings, so they now name the file of items instead of the function.
    task.set_config("custom_dataset", None)
    task.set_config("dataset_kwargs", {"data_files": {"test": source}})
    found = EvalTask(task, source, items=tuple(items), **options)
    _ = found.rows  # raises InputError if an answer cannot be scored
    return found


# The evaluations.


@dataclass(frozen=True)
class Zeroshot:
    """Measures `acc/<task>` (lm-eval's `acc_norm` if the task has it, else `acc`) and the tasks' mean, `acc/mean`.

    For a quick look, `limit` bounds the items of each task. `scorer` is as in `EvalTask`.
    """

    tasks: list[str]
    limit: int | None = None
    batch_size: int = 16
    scorer: str = "lm_eval"
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        check_asking(self)
        if not self.tasks:
            raise InputError("eval.tasks is empty: name at least one task of lm-eval.")

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The documents of each task."""
        return {
            f"acc/{name}": tasks_data(name, tokenizer, self.limit, self.scorer)[1]
            for name in dict.fromkeys(self.tasks)
        }

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The accuracy on a task."""
        return measure_task(name, forward, cast(Task, data), mask, self.batch_size)


@dataclass(frozen=True)
class TextAndTasks:
    """Measures the metrics of `perplexity` and `zeroshot`. The configuration passes `limit` to both evaluations."""

    perplexity: Any
    zeroshot: Any
    limit: int | None = None
    allow_overlap: bool = False

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The windows of each corpus and the documents of each task."""
        return {**self.perplexity.data(tokenizer), **self.zeroshot.data(tokenizer)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on text windows, or the accuracy on a task."""
        part: Evaluation = self.perplexity if name.startswith("ppl/") else self.zeroshot
        return part.measure(forward, name, data, mask)


# Tasks and groups of lm-eval by name.


@lru_cache(maxsize=1)
def manager() -> Any:
    """lm-eval's index of its own tasks. It is cached because building it takes seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


def load_tasks(name: str) -> list[Any]:
    """The lm-eval task `name` with its documents; if `name` is a group, all its tasks.

    Raises InputError if the name is unknown, or if a task needs a package that is not installed. Raises
    UnreachableError if the documents cannot be loaded.
    """
    tasks = manager()
    if name not in tasks.all_tasks:
        hint = near_names(name, tasks.all_subtasks)
        raise InputError(
            f"eval.tasks: '{name}' is not a task of lm-eval.{hint} `lm-eval ls tasks` lists all tasks."
        )
    use_hub()
    try:
        with quiet():
            return list(tasks.load([name])["tasks"].values())
    except hub_errors() as error:
        raise UnreachableError(
            f"the data of task {name} cannot be read ({first_line(error)}): check the network, or evaluate on a file "
            "of items with eval=local 'eval.items={NAME: FILE}'."
        ) from error
    except ImportError as error:
        raise InputError(
            f"eval.tasks: '{name}' cannot be loaded ({first_line(error)}): install the packages that it needs."
        ) from error


def tasks_data(
    name: str,
    tokenizer: Any,
    limit: int | None,
    scorer: str = "lm_eval",
    fewshot: int | None = 0,
    new_tokens: int | None = None,
    written: bool = False,
) -> tuple[bool, Task]:
    """A pair for a task or group: whether answers are generated (allowed only if `written`), and the data.

    If `fewshot` or `new_tokens` is None, the task's own number is used. Raises the errors of `load_tasks`,
    and InputError if a task cannot be measured or prompted, or if only some of a group's tasks are generated.
    """
    tasks = []
    for loaded in load_tasks(name):
        config = loaded.config
        examples = (config.num_fewshot or 0) if fewshot is None else fewshot
        names = (config.dataset_path, config.dataset_name, config.test_split or config.validation_split)
        source = "/".join(str(name) for name in names if name)
        task = EvalTask(loaded, source, tokenizer, limit, fewshot=examples, scorer=scorer)
        metrics = loaded.aggregation()
        listed = f"{loaded.OUTPUT_TYPE}, with {', '.join(metrics) or 'no metrics'}"
        if not (written and EXACT in metrics if task.generated else task.metric is not None):
            exact = f", or a generate_until task with {EXACT}" if written else ""
            raise InputError(
                f"eval.tasks: '{name}' cannot be measured ({listed}): choose a task that has "
                f"{' or '.join(METRICS)}{exact}."
            )
        if scorer == "engine" and (loaded.OUTPUT_TYPE != "multiple_choice" or not {*metrics} <= {*METRICS}):
            raise InputError(
                f"eval.scorer=engine scores multiple-choice tasks by {' and '.join(METRICS)}, but {name} is another "
                f"one ({listed}): set eval.scorer=lm_eval."
            )
        if task.generated and new_tokens is not None:
            settings = {k: v for k, v in (config.generation_kwargs or {}).items() if k not in LENGTHS}
            loaded.set_config("generation_kwargs", settings | {"max_gen_toks": new_tokens})
        try:
            _ = task.rows if scorer == "engine" else task.requests
        except (
            InputError,
            ValueError,
            AssertionError,
            IndexError,
        ) as error:  # lm-eval's samplers raise the last two
            raise InputError(
                f"eval.tasks: the prompts of '{name}' with {examples} examples cannot be used "
                f"({first_line(error)}): lower eval.num_fewshot, or choose another task."
            ) from error
        tasks.append(task)
    if len({task.generated for task in tasks}) > 1:
        raise InputError(
            f"eval.tasks: some tasks of '{name}' are generated and some multiple-choice: name them one by one."
        )
    return tasks[0].generated, tasks[0] if len(tasks) == 1 else TaskGroup(name, tuple(tasks))


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """The tasks of a group, such as `mmlu`, measured as one metric: the share of right answers over all items.

    The tasks are in lm-eval's order. Either all are generated, or all are multiple-choice.
    """

    name: str
    members: tuple[EvalTask, ...]

    @property
    def source(self) -> str:
        """The name of the group, and how many tasks it has."""
        return f"{self.name}, {len(self.members)} tasks"

    @cached_property
    def sha256(self) -> str:
        """Digest of the members' digests."""
        return text_sha256(json.dumps([member.sha256 for member in self.members]))

    def shared(self, calibration: Samples, /) -> int:
        """The number of the group's documents that are also in the calibration data."""
        return sum(member.shared(calibration) for member in self.members)


Task = EvalTask | TaskGroup


def measure_task(name: str, forward: Forward, data: Task, mask: Mask, batch_size: int) -> Measured:
    """The accuracy or the share of exact answers, its standard error, and lm-eval's own results and samples.

    In a group, all items count equally, so tasks weigh in proportion to their numbers of items. lm-eval's
    function pools the standard errors. Raises the errors of `_measured_task`.
    """
    if isinstance(data, EvalTask):
        return _measured_task(name, forward, data, mask, batch_size)
    from lm_eval.api.metrics import pooled_sample_stderr

    each = [_measured_task(name, forward, member, mask, batch_size) for member in data.members]
    sizes = [one.how["items"] for one in each]
    metrics: dict[str, float] = {}
    for metric in metrics_among(each[0].metrics):
        values, errors = (
            [one.metrics[key] for one in each if key in one.metrics] for key in (metric, error_of(metric))
        )
        if len(values) == len(each):
            metrics[metric] = sum(n * size for n, size in zip(values, sizes, strict=True)) / sum(sizes)
            if len(errors) == len(each):
                metrics[error_of(metric)] = float(pooled_sample_stderr(errors, sizes))
    labels = [member.task.task_name for member in data.members]
    how = {"group": data.name, "tasks": len(labels), "items": sum(sizes), "limit": data.members[0].limit}
    how["metric"] = " or ".join(dict.fromkeys(one.how["metric"] for one in each))
    how |= {key: each[0].how[key] for key in ("lm_eval", "fewshot") if key in each[0].how}
    # The files of all members together: lm-eval's results by task, all samples, and all terms.
    pairs = zip(labels, each, strict=True)
    results = {label: json.loads(one.files["lm_eval.json"]) for label, one in pairs}
    terms: dict[str, list[Any]] = defaultdict(list)
    for one in each:
        for key, found in json.loads(one.files[TERMS]).items():
            terms[key].extend(found)
    files = {
        "lm_eval.json": json.dumps(results, indent=2).encode(),
        "samples.jsonl.gz": b"".join(one.files["samples.jsonl.gz"] for one in each),  # gzip allows this
    }
    return Measured(metrics, how, files | terms_file(terms))
