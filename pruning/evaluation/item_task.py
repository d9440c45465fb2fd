"""A task of lm-eval on items of a local file.

lm-eval fills in templates with Jinja and converts the result: a prompt of digits becomes a number. If the first
prompt is a number, lm-eval expects several contexts and asks no question. So lm-eval gets no template. Every field of
the task is the name of a field of the documents, which lm-eval returns as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning.calibration.records import FIELD, Item
from pruning.evaluation.lm_eval_quiet import quiet
from pruning.evaluation.tasks import EvalTask


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
