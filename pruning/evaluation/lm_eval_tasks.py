"""lm-eval's own tasks: zero-shot accuracy (`eval=zeroshot`; by default, the paper's six tasks), and groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.sources import hub_errors
from pruning.core.errors import InputError, UnreachableError, first_line, near_names
from pruning.core.records import TERMS, error_of, metrics_among
from pruning.core.storage import text_sha256
from pruning.core.wheels import use_hub
from pruning.evaluation import Data, Evaluation, Measured, terms_file
from pruning.evaluation.choices import (
    EXACT,
    LENGTHS,
    METRICS,
    EvalTask,
    check_asking,
    measure_task,
    quiet,
)

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

COUNTED = {"acc", "acc_norm"}  # the metrics of lm-eval that need nothing but log-likelihoods


@dataclass(frozen=True)
class Zeroshot:
    """Metrics: `acc/<task>` per task (lm-eval's `acc_norm` if the task has it, else `acc`); their mean `acc/mean`.

    For a quick look, `limit` bounds the items of each task. `batch_size` is passed to lm-eval. `scorer` is
    `lm_eval` or `engine`; see `EvalTask`.
    """

    tasks: list[str]
    limit: int | None = None
    batch_size: int = 16
    scorer: str = "lm_eval"
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_asking(self)
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
        return measure_task(name, forward, cast(EvalTask, data), mask, self.batch_size)

    def _task(self, name: str, tokenizer: Any) -> EvalTask:
        (loaded,) = load_tasks(name)
        task = EvalTask(loaded, source_of(loaded), tokenizer, self.limit, scorer=self.scorer)
        metrics = ", ".join(loaded.aggregation())
        if self.scorer == "engine":
            if loaded.OUTPUT_TYPE != "multiple_choice" or not {*loaded.aggregation()} <= COUNTED:
                raise InputError(
                    f"eval.scorer=engine scores multiple-choice tasks by {' and '.join(sorted(COUNTED))}, but {name} "
                    f"({loaded.OUTPUT_TYPE}) has {metrics}: set eval.scorer=lm_eval."
                )
            try:
                _ = task.rows
            except InputError as error:
                raise InputError(f"eval.tasks: '{name}': {error} Choose another task.") from error
        if task.metric is None:
            raise InputError(
                f"eval.tasks: '{name}' has no accuracy, only {metrics}: choose a task that has "
                f"{' or '.join(METRICS)}."
            )
        return task


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


# Tasks and groups of lm-eval by name.


@lru_cache(maxsize=1)
def manager() -> Any:
    """lm-eval's index of its own tasks. It is cached, because building the index takes seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


def load_tasks(name: str, groups: bool = False) -> list[Any]:
    """A task of lm-eval with its documents or, with `groups`, all tasks of a group.

    Raises InputError if the name is unknown, names a group and `groups` is false, or needs a package that is not
    installed. Raises UnreachableError if the documents cannot be loaded.
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
            "of items with eval=local 'eval.items={NAME: FILE}'."
        ) from error
    except ImportError as error:
        package = (
            error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
        )
        # Some tasks raise an error of their own that says what to install.
        raise InputError(
            f"eval.tasks: '{name}' needs the package {package}: pip install {package}"
            if package
            else f"eval.tasks: '{name}' cannot be loaded ({first_line(error)}): install the packages that it needs."
        ) from error


def source_of(loaded: Any) -> str:
    """The data set, configuration and split of a task of lm-eval."""
    config = loaded.config
    parts = (config.dataset_path, config.dataset_name, config.test_split or config.validation_split)
    return "/".join(str(part) for part in parts if part)


def named_data(
    name: str, tokenizer: Any, limit: int | None, fewshot: int | None, new_tokens: int | None
) -> dict[str, Data]:
    """The metric of a task or group and its data: `exact/<name>` if answers are generated, `acc/<name>` if chosen.

    Without `fewshot` and `new_tokens`, a task keeps its own numbers. Raises InputError if the name is unknown, a task
    has neither right answers nor choices, or it has too few examples. Raises UnreachableError if the documents cannot
    be loaded.
    """
    tasks = []
    for loaded in load_tasks(name, groups=True):
        examples = (loaded.config.num_fewshot or 0) if fewshot is None else fewshot
        task = EvalTask(loaded, source_of(loaded), tokenizer, limit, fewshot=examples)
        metrics = loaded.aggregation()
        if not (task.generated and EXACT in metrics) and not (
            loaded.OUTPUT_TYPE == "multiple_choice" and task.metric is not None
        ):
            listed = f"the metrics {', '.join(metrics)}" if metrics else "no metrics"
            raise InputError(
                f"eval.tasks: '{name}' is a {loaded.OUTPUT_TYPE} task with {listed}: choose a generate_until task "
                f"with {EXACT}, or a multiple_choice task with {' or '.join(METRICS)}."
            )
        if task.generated and new_tokens is not None:
            settings = {k: v for k, v in (loaded.config.generation_kwargs or {}).items() if k not in LENGTHS}
            loaded.set_config("generation_kwargs", settings | {"max_gen_toks": new_tokens})
        try:
            _ = task.requests
        except (ValueError, AssertionError, IndexError) as error:  # what lm-eval's samplers raise
            raise InputError(
                f"eval.tasks: no prompts of '{name}' with {task.fewshot} examples can be made ({first_line(error)}): "
                "lower eval.num_fewshot."
            ) from error
        tasks.append(task)
    if len({task.generated for task in tasks}) > 1:
        raise InputError(
            f"eval.tasks: some tasks of '{name}' are generated and some multiple-choice: name them one by one."
        )
    kind = "exact" if tasks[0].generated else "acc"
    return {f"{kind}/{name}": tasks[0] if len(tasks) == 1 else TaskGroup(name, tuple(tasks))}


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """The tasks of a group, such as `mmlu`, in lm-eval's order, measured as one metric: the share of right answers
    over all items. All have right answers of the same kind.
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
        """The number of documents that are in the calibration data."""
        return sum(member.shared(calibration) for member in self.members)

    def measure_each(self, measure: Callable[[EvalTask], Measured]) -> Measured:
        """The metric over all items; `measure` returns the metric of one member.

        Items count equally, as in lm-eval's groups that weigh by size, and the standard error is lm-eval's. Other
        metrics are reported if every member has them.
        """
        each = [measure(member) for member in self.members]
        sizes = [one.how["items"] for one in each]
        metrics: dict[str, float] = {}
        for metric in metrics_among(each[0].metrics):
            if all(metric in one.metrics for one in each):
                metrics |= _pooled(metric, [one.metrics for one in each], sizes)
        labels = [member.task.task_name for member in self.members]
        how = {"group": self.name, "tasks": len(labels), "items": sum(sizes), "limit": self.members[0].limit}
        how["metric"] = " or ".join(dict.fromkeys(one.how["metric"] for one in each))
        how |= {key: each[0].how[key] for key in ("lm_eval", "fewshot") if key in each[0].how}
        # The files of all members together: lm-eval's results by task, all samples, and all terms.
        results = {
            label: json.loads(one.files["lm_eval.json"]) for label, one in zip(labels, each, strict=True)
        }
        terms: dict[str, list[Any]] = {}
        for one in each:
            for key, values in json.loads(one.files[TERMS]).items():
                terms.setdefault(key, []).extend(values)
        files = {
            "lm_eval.json": json.dumps(results, indent=2).encode(),
            "samples.jsonl.gz": b"".join(one.files["samples.jsonl.gz"] for one in each),  # gzip allows it
        }
        return Measured(metrics, how, files | terms_file(terms))


def _pooled(metric: str, values: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """The mean over all items of a metric and its standard error, if every member has one."""
    from lm_eval.api.metrics import pooled_sample_stderr

    total = sum(value[metric] * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
    errors = [value[error_of(metric)] for value in values if error_of(metric) in value]
    if len(errors) < len(values):
        return {metric: total}
    return {metric: total, error_of(metric): float(pooled_sample_stderr(errors, list(sizes)))}
