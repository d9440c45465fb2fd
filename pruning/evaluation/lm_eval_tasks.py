"""Zero-shot accuracy on tasks of lm-eval (`eval=zeroshot`); by default, the paper's six tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.item_files import FIELD, hub_errors, json_records
from pruning.core.errors import InputError, UnreachableError, first_line, near_names
from pruning.core.records import TERMS, error_of, metrics_among
from pruning.core.storage import text_sha256
from pruning.core.wheels import use_hub
from pruning.evaluation import Data, Evaluation, Measured
from pruning.evaluation.choices import (
    METRICS,
    EvalTask,
    accuracy,
    check_countable,
    check_equal,
    check_scorer,
    might_exceed,
    quiet,
    token_counts,
)
from pruning.evaluation.corpora import check_limit, check_names, terms_file
from pruning.evaluation.text_overlap import Document, haystack

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Zeroshot:
    """Metrics: `acc/<task>` per task (lm-eval's `acc_norm` if the task has it, else `acc`); their mean `acc/mean`.

    For a quick look, `limit` bounds the items of each task. `batch_size` is passed to lm-eval. `scorer` is
    `lm_eval` or `engine`; see `engine_answers`.
    """

    tasks: list[str]
    limit: int | None = None
    batch_size: int = 16
    scorer: str = "lm_eval"
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_names("eval.tasks", self.tasks)
        check_limit(self.limit)
        check_batch_size(self.batch_size)
        check_scorer(self.scorer)
        if not self.tasks:
            raise InputError("eval.tasks is empty: name at least one task of lm-eval.")

    def files(self) -> tuple[str, ...]:
        """No files."""
        return ()

    def data(self, tokenizer: Any) -> dict[str, EvalTask]:
        """The documents of each task."""
        return {f"acc/{name}": self._task(name, tokenizer) for name in dict.fromkeys(self.tasks)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The accuracy on a task."""
        return accuracy(name, forward, cast(EvalTask, data), mask, self.batch_size)

    def _task(self, name: str, tokenizer: Any) -> EvalTask:
        (loaded,) = load_tasks(name)
        task = EvalTask(loaded, source_of(loaded), tokenizer, self.limit, scorer=self.scorer)
        if self.scorer == "engine":
            check_countable(loaded, name)
            _check_rows(name, task)
        if task.metric is None:
            raise InputError(
                f"eval.tasks: '{name}' has no accuracy, only {', '.join(loaded.aggregation())}: choose a task that "
                f"has {' or '.join(METRICS)}."
            )
        return task


def _check_rows(name: str, task: EvalTask) -> None:
    """Make the rows that the engine scores. Raises InputError if an answer has no tokens of its own."""
    try:
        _ = task.rows
    except InputError as error:
        raise InputError(f"eval.tasks: '{name}': {error} Choose another task.") from error


def check_batch_size(batch_size: int) -> None:
    """Raise InputError if the batch size is below 1."""
    if batch_size < 1:
        raise InputError(f"eval.batch_size={batch_size}: give at least 1.")


@lru_cache(maxsize=1)
def manager() -> Any:
    """lm-eval's index of its own tasks. It is cached, because building the index takes seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


def load_tasks(
    name: str, groups: bool = False, instead: str = "of items with eval=local 'eval.items={NAME: FILE}'"
) -> list[Any]:
    """A task of lm-eval with its documents or, with `groups`, all tasks of a group.

    Raises InputError if the name is unknown, names a group and `groups` is false, or needs a package that is not
    installed. Raises UnreachableError if the documents cannot be loaded; `instead` says which local file can be used
    instead.
    """
    tasks = manager()
    if name not in tasks.all_tasks:
        hint = near_names(name, tasks.all_subtasks)
        raise InputError(
            f"eval.tasks: '{name}' is not a task of lm-eval.{hint} `lm-eval ls tasks` lists all tasks."
        )
    if name not in tasks.all_subtasks and not groups:
        raise InputError(f"eval.tasks: '{name}' is a group of tasks: name its tasks one by one.")
    use_hub()
    try:
        with quiet():
            return list(tasks.load([name])["tasks"].values())
    except hub_errors() as error:
        raise UnreachableError(
            f"the data of task {name} cannot be read ({first_line(error)}): check the network, or evaluate on a file "
            f"{instead}."
        ) from error
    except ImportError as error:
        raise _lacking(name, error) from error


def _lacking(name: str, error: ImportError) -> InputError:
    """The error for a task whose code in lm-eval needs a package that is not installed."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return InputError(f"eval.tasks: '{name}' needs the package {package}: pip install {package}")
    # Some tasks raise an error of their own that says what to install.
    return InputError(
        f"eval.tasks: '{name}' cannot be loaded ({first_line(error)}): install the packages that it needs."
    )


def source_of(loaded: Any) -> str:
    """The data set, configuration and split of a task of lm-eval."""
    config = loaded.config
    parts = (config.dataset_path, config.dataset_name, config.test_split or config.validation_split)
    return "/".join(str(part) for part in parts if part)


# Questions of local files, to which a model writes the answer. Every error names the file and the line.

FORMAT = (
    'Write {"question": "...", "answer": "..."}, several right answers as {"answer": ["...", "..."]}, or a regular '
    'expression as {"question": "...", "pattern": "..."}.'
)


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and a regular expression that a right answer contains, if there is one.

    With a pattern, the answers are only shown in examples.
    """

    question: str
    answers: tuple[str, ...]
    pattern: str | None = None

    def prompt(self, template: str) -> str:
        """The template with the question filled in."""
        return template.replace(FIELD, self.question)

    def right(self, written: str) -> bool:
        """Whether what a model wrote is right.

        It must contain the pattern or, without a pattern, be one of the answers, apart from white space around and
        within it.
        """
        if self.pattern is not None:
            return re.search(self.pattern, written) is not None
        return _plain(written) in {_plain(answer) for answer in self.answers}


def _plain(text: str) -> str:
    """A text with single spaces between its words, and none around it."""
    return " ".join(text.split())


def read_questions(path: Path) -> list[Question]:
    """The questions of a `.jsonl` file, or of a file with one JSON array. Raises InputError if one is malformed."""
    questions = [_question(record, where) for where, record in json_records(path)]
    if not questions:
        raise InputError(f"{path}: the file contains no questions. {FORMAT}")
    return questions


def _question(record: Any, where: str) -> Question:
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a question must be a JSON object. {FORMAT}")
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: the field 'question' must be text that is not blank. {FORMAT}")
    answers, pattern = _answers(record, where), record.get("pattern")
    if pattern is None and not answers:
        raise InputError(f"{where}: there is neither an 'answer' nor a 'pattern'. {FORMAT}")
    if pattern is not None:
        _check_pattern(pattern, where)
    try:
        "".join((question, *answers)).encode()
    except (
        UnicodeEncodeError
    ) as error:  # half of a surrogate pair, which JSON can write and no tokenizer can read
        raise InputError(
            f"{where}: a text holds {error.object[error.start]!r}, which is no Unicode."
        ) from error
    return Question(question, answers, pattern)


def _answers(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = record.get("answer", [])
    listed: Sequence[Any] = value if isinstance(value, list) else [value]
    numbers = all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in listed)
    if not numbers or not all(str(one).strip() for one in listed):
        raise InputError(
            f"{where}: 'answer' must be a text, a number, or a list of these, none blank. {FORMAT}"
        )
    return tuple(str(one) for one in listed)


def _check_pattern(pattern: Any, where: str) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise InputError(f"{where}: 'pattern' must be a regular expression, as text. {FORMAT}")
    try:
        matches_nothing = re.compile(pattern).search("") is not None
    except re.error as error:
        raise InputError(
            f"{where}: 'pattern' {pattern!r} is no regular expression of Python ({error}): correct it."
        ) from error
    if matches_nothing:
        raise InputError(
            f"{where}: 'pattern' {pattern!r} also fits an empty answer, so every answer would be right: correct it."
        )


# Tasks of lm-eval to which a model writes the answer (`generate_until`), as evaluation data.

METRIC = "exact_match"  # lm-eval's name of the share of right answers
NEW_TOKENS = 256  # lm-eval's default
# The names that lm-eval knows for the number of new tokens; the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, eq=False)
class GenerationTask:
    """The documents of a task; `plain` builds its requests. `questions` are those of a local file, if it is one."""

    plain: EvalTask
    questions: tuple[Question, ...] = ()

    @property
    def local(self) -> bool:
        """Whether the documents are those of a local file."""
        return bool(self.questions)

    @property
    def task(self) -> Any:
        """lm-eval's object."""
        return self.plain.task

    @property
    def source(self) -> str:
        """The origin of the documents."""
        return self.plain.source

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.plain.tokenizer

    @property
    def limit(self) -> int | None:
        """At most this many documents are asked; None: all."""
        return self.plain.limit

    @property
    def fewshot(self) -> int:
        """The number of examples that lm-eval puts before each question."""
        return self.plain.fewshot

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The fields of each document, its requests to the model, and its right answer."""
        return self.plain.requests

    @property
    def asked(self) -> list[tuple[Any, ...]]:
        """All requests, in order, as often as lm-eval sends each: prompts and settings of the generation."""
        times = self.task.config.repeats or 1
        return [request for request in self.plain.asked for _ in range(times)]

    @property
    def new_tokens(self) -> int:
        """At most this many tokens are generated."""
        settings = self.task.config.generation_kwargs or {}
        return int(next((settings[name] for name in LENGTHS if settings.get(name) is not None), NEW_TOKENS))

    @cached_property
    def sha256(self) -> str:
        """Digest of the exact prompts, the settings of the generation, and the right answers."""
        right = [[question.answers, question.pattern] for question in self.questions]
        return text_sha256(json.dumps([METRIC, self.plain.sha256, right]))

    @property
    def pieces(self) -> list[Hashable]:
        """The prompts of each document, to find documents that occur more than once."""
        return [tuple(str(arguments[0]) for arguments in request["asked"]) for request in self.requests]

    @property
    def repeated(self) -> int:
        """The number of documents that repeat another document."""
        return len(self.pieces) - len(set(self.pieces))

    def check_requests(self, prompts: Sequence[str], settings: dict[str, Any]) -> None:
        """Raise RequestError if lm-eval's requests are not these prompts with these settings."""
        check_equal(self.asked, [(prompt, settings) for prompt in prompts], self.source)

    def check_length(self, name: str, most: int) -> None:
        """Raise InputError if a model of `most` tokens has no room for a prompt beside the new tokens."""
        if self.new_tokens >= most:
            raise InputError(
                f"{name} ({self.source}): up to {self.new_tokens} tokens are generated, and the model reads at most "
                f"{most}: lower eval.max_new_tokens."
            )

    def too_long(self, most: int) -> list[int]:
        """The numbers, from 0, of the documents whose prompt and answer may exceed `most` tokens."""
        room = most - self.new_tokens
        numbered = [(n, (str(pair[0]), "")) for n, r in enumerate(self.requests) for pair in r["asked"]]
        long = [(n, pair) for n, pair in numbered if might_exceed(pair, room)]
        counts = token_counts([pair for _, pair in long], self.tokenizer)
        return sorted({n for (n, _), (_, whole) in zip(long, counts, strict=True) if whole > room})

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        known = haystack(calibration, self.tokenizer)
        return sum(any(map(known.holds, forms)) for forms in self.documents())

    def documents(self) -> Iterator[tuple[Document, ...]]:
        """Yield each document as possible questions, once without an answer and once with each right answer.

        Without an answer, only a long question is found. Prompts are left out, because they hold examples too.
        """
        for number, request in enumerate(self.requests):
            if self.questions:
                texts = [self.questions[number].question]
                answers: tuple[str, ...] = self.questions[number].answers
            else:
                texts = [v for v in request["doc"].values() if isinstance(v, str) and " " in v]
                answers = (request["target"],) if isinstance(request["target"], str) else ()
            yield tuple(Document(tuple(texts), known) for known in ((), *((one,) for one in answers)))


# A group of lm-eval's tasks, such as `mmlu`, measured as one metric: the share of right answers over all items.


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """The tasks of a group, in lm-eval's order. All have right answers of the same kind."""

    name: str
    members: tuple[EvalTask | GenerationTask, ...]

    @property
    def source(self) -> str:
        """The name of the group, and how many tasks it has."""
        return f"{self.name}, {len(self.members)} tasks"

    @cached_property
    def sha256(self) -> str:
        """Digest of the members' digests."""
        return text_sha256(json.dumps([member.sha256 for member in self.members]))

    def shared(self, calibration: Samples, /) -> int:
        """The number of documents that are in the calibration data."""
        return sum(member.shared(calibration) for member in self.members)

    def measure_each(self, name: str, measure: Callable[[str, Any], Measured]) -> Measured:
        """The metric over all items; `measure` returns the metric `name` of one member.

        Items count equally, as in lm-eval's groups that weigh by size, and the standard error is lm-eval's. Other
        metrics are reported if every member has them.
        """
        each = [measure(name, member) for member in self.members]
        sizes = [one.how["items"] for one in each]
        metrics: dict[str, float] = {}
        for metric in metrics_among(each[0].metrics):
            if not all(metric in one.metrics for one in each):
                continue
            metrics |= _pooled(metric, [one.metrics for one in each], sizes)
        labels = [member.task.task_name for member in self.members]
        how = {"group": self.name, "tasks": len(labels), "items": sum(sizes), "limit": self.members[0].limit}
        how["metric"] = " or ".join(dict.fromkeys(one.how["metric"] for one in each))
        how |= {key: each[0].how[key] for key in ("lm_eval", "fewshot") if key in each[0].how}
        return Measured(metrics, how, _files(labels, [one.files for one in each]))


def _pooled(metric: str, values: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """The mean over all items of a metric and its standard error, if every member has one."""
    from lm_eval.api.metrics import pooled_sample_stderr

    total = sum(value[metric] * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
    errors = [value[error_of(metric)] for value in values if error_of(metric) in value]
    if len(errors) < len(values):
        return {metric: total}
    return {metric: total, error_of(metric): float(pooled_sample_stderr(errors, list(sizes)))}


def _files(labels: Sequence[str], each: Sequence[Any]) -> dict[str, bytes]:
    """The files of all members together: lm-eval's results by task, all samples, and all terms."""
    results = {label: json.loads(files["lm_eval.json"]) for label, files in zip(labels, each, strict=True)}
    terms: dict[str, list[Any]] = {}
    for files in each:
        for key, values in json.loads(files[TERMS]).items():
            terms.setdefault(key, []).extend(values)
    samples = b"".join(files["samples.jsonl.gz"] for files in each)  # gzip files may follow each other
    return {
        "lm_eval.json": json.dumps(results, indent=2).encode(),
        "samples.jsonl.gz": samples,
        **terms_file(terms),
    }


# Tasks and groups of lm-eval by name, generated or multiple-choice, with examples in the prompt.

INSTEAD = "of questions with 'eval.generate={NAME: FILE}'"


def named_data(
    name: str, tokenizer: Any, limit: int | None, fewshot: int | None, new_tokens: int | None
) -> dict[str, Data]:
    """The metric of a task or group and its data: `exact/<name>` if answers are generated, `acc/<name>` if chosen.

    Without `fewshot` and `new_tokens`, a task keeps its own numbers. Raises InputError if the name is unknown, a task
    has neither right answers nor choices, or it has too few examples. Raises UnreachableError if the documents cannot
    be loaded.
    """
    loaded = load_tasks(name, groups=True, instead=INSTEAD)
    members = [_member(name, one, tokenizer, limit, fewshot, new_tokens) for one in loaded]
    kinds = sorted({kind for kind, _ in members})
    if len(kinds) > 1:
        raise InputError(
            f"eval.tasks: some tasks of '{name}' are generated and some multiple-choice: name them one by one."
        )
    tasks = tuple(task for _, task in members)
    return {f"{kinds[0]}/{name}": tasks[0] if len(tasks) == 1 else TaskGroup(name, tasks)}


def _member(
    name: str,
    loaded: Any,
    tokenizer: Any,
    limit: int | None,
    fewshot: int | None,
    new_tokens: int | None,
) -> tuple[str, EvalTask | GenerationTask]:
    examples = (loaded.config.num_fewshot or 0) if fewshot is None else fewshot
    plain = EvalTask(loaded, source_of(loaded), tokenizer, limit, fewshot=examples)
    measured = loaded.aggregation()
    if loaded.OUTPUT_TYPE == "generate_until" and METRIC in measured:
        if new_tokens is not None:
            settings = {k: v for k, v in (loaded.config.generation_kwargs or {}).items() if k not in LENGTHS}
            loaded.set_config("generation_kwargs", settings | {"max_gen_toks": new_tokens})
        _check_examples(name, plain)
        return "exact", GenerationTask(plain)
    if loaded.OUTPUT_TYPE == "multiple_choice" and plain.metric is not None:
        _check_examples(name, plain)
        return "acc", plain
    raise InputError(
        f"eval.tasks: '{name}' is a {loaded.OUTPUT_TYPE} task with {_listed(measured)}: choose a generate_until task "
        f"with {METRIC}, or a multiple_choice task with {' or '.join(METRICS)}."
    )


def _check_examples(name: str, task: EvalTask) -> None:
    """Build the prompts. Raises InputError if the task has too few examples for them."""
    try:
        _ = task.requests
    except (ValueError, AssertionError, IndexError) as error:  # what lm-eval's samplers raise
        raise InputError(
            f"eval.tasks: no prompts of '{name}' with {task.fewshot} examples can be made ({first_line(error)}): "
            "lower eval.num_fewshot."
        ) from error


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return f"the metrics {', '.join(names)}" if names else "no metrics"


# Measure both perplexity and zero-shot accuracy (`eval=full`).


@dataclass(frozen=True)
class Full:
    """The metrics of `perplexity` and of `zeroshot`. The configuration passes `limit` to both evaluations."""

    perplexity: Any
    zeroshot: Any
    limit: int | None = None
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def files(self) -> tuple[str, ...]:
        """The local files of the corpora."""
        return tuple(self.perplexity.files())

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The windows of each corpus and the documents of each task."""
        return {**self.perplexity.data(tokenizer), **self.zeroshot.data(tokenizer)}

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on text windows, or the accuracy on a task."""
        part: Evaluation = self.zeroshot if isinstance(data, EvalTask) else self.perplexity
        return part.measure(forward, name, data, mask)
