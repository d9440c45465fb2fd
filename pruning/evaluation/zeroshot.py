"""Zero-shot accuracy on tasks of lm-eval (`eval=zeroshot`); by default, the paper's six tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.source_settings import hub_errors
from pruning.core.errors import InputError, UnreachableError, first_line, near_names
from pruning.core.hub import use_hub
from pruning.evaluation import Data, Measured
from pruning.evaluation.accuracy import accuracy
from pruning.evaluation.engine_answers import check_countable, check_scorer
from pruning.evaluation.lm_eval_quiet import quiet
from pruning.evaluation.perplexity import check_limit, check_names
from pruning.evaluation.tasks import METRICS, EvalTask

if TYPE_CHECKING:
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
