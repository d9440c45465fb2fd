"""A task of lm-eval on the questions of a local file.

As in `item_task.py`, lm-eval gets no template: every field of the task is the name of a field of the documents, which
lm-eval returns as it is. Examples are part of the filled-in prompts, in lm-eval's format: a space before an answer,
an empty line after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.core.errors import InputError
from pruning.evaluation.generation_task import METRIC, GenerationTask
from pruning.evaluation.lm_eval_quiet import quiet
from pruning.evaluation.questions import Question
from pruning.evaluation.tasks import EvalTask


def question_task(
    name: str,
    pool: Sequence[Question],
    template: str,
    source: str,
    fewshot: int,
    settings: dict[str, Any],
    **options: Any,
) -> GenerationTask:
    """The task that asks these questions; `options` are the tokenizer and the limit of an `EvalTask`.

    The first `fewshot` questions are examples in every prompt and are not asked. `settings` are lm-eval's settings of
    the generation. Raises InputError if there are too few questions, or if an example has no answer to show, and
    RequestError if lm-eval's requests are not the filled-in prompts.
    """
    examples, asked = pool[:fewshot], tuple(pool[fewshot:])
    if not asked:
        raise InputError(
            f"{source} has {len(pool)} questions, and eval.num_fewshot={fewshot} of them are examples, so none is "
            "left to ask: lower eval.num_fewshot."
        )
    for number, example in enumerate(examples, start=1):
        if not example.answers:
            raise InputError(
                f"{source}: question {number} is an example in every prompt (eval.num_fewshot={fewshot}) and has "
                "only a pattern: give it an 'answer' to show."
            )
    shown = "".join(f"{example.prompt(template)} {example.answers[0]}\n\n" for example in examples)
    prompts = [shown + question.prompt(template) for question in asked]
    task = _task(name, asked, prompts, source, settings)
    found = GenerationTask(EvalTask(task, source, **options), asked)
    found.check_requests(prompts[: options.get("limit")], settings)
    return found


def _task(
    name: str, asked: Sequence[Question], prompts: Sequence[str], source: str, settings: dict[str, Any]
) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    documents = [
        {
            "question": question.question,
            "prompt": prompt,
            "answers": list(question.answers),
            "pattern": question.pattern or "",
            "target": question.answers[0] if question.answers else str(question.pattern),
        }
        for question, prompt in zip(asked, prompts, strict=True)
    ]
    config = {
        "task": name,
        "dataset_path": "json",
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "process_results": _scored,
        "num_fewshot": 0,
        "generation_kwargs": settings,
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    with quiet():
        data = {"test": datasets.Dataset.from_list(documents, features=_features())}
        task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: data})
    # lm-eval records its settings, so they name the file of the questions instead of the function above.
    task.set_config("custom_dataset", None)
    task.set_config("dataset_kwargs", {"data_files": {"test": source}})
    return task


def _features() -> Any:
    """The types of the fields. Without them, a file without any answers would have no type for them."""
    from datasets import Features, Value

    text = dict.fromkeys(("question", "prompt", "pattern", "target"), Value("string"))
    return Features({**text, "answers": [Value("string")]})


def _scored(document: dict[str, Any], written: Sequence[str]) -> dict[str, float]:
    """lm-eval's metric for what a model wrote on a document."""
    question = Question(document["question"], tuple(document["answers"]), document["pattern"] or None)
    return {METRIC: float(question.right(written[0]))}
