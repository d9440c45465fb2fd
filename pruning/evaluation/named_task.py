"""Tasks and groups of lm-eval by name, generated or multiple-choice, with examples in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.core.errors import InputError, first_line
from pruning.evaluation import Data
from pruning.evaluation.generation_task import LENGTHS, METRIC, GenerationTask
from pruning.evaluation.task_group import TaskGroup
from pruning.evaluation.tasks import METRICS, EvalTask
from pruning.evaluation.zeroshot import load_tasks, source_of

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
