"""Evaluate on local files (`eval=local`): perplexity on text, accuracy on multiple-choice items through lm-eval."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import yaml

from pruning.calibration import records
from pruning.calibration.items import FIELD
from pruning.calibration.records import Item
from pruning.core.errors import InputError
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpus import Corpus
from pruning.evaluation.perplexity import check_limit, check_names, corpus_perplexity
from pruning.evaluation.tasks import EvalTask, accuracy, quiet
from pruning.evaluation.zeroshot import check_batch_size

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class LocalFiles:
    """Metrics: `ppl/<name>` per file of `texts`, `acc/<name>` per file of `items`, `acc/mean` for several such files.

    Texts are `.txt`, `.jsonl` or `.parquet` files, cut into windows as in `Corpus`. Items are `.jsonl` files of
    {"question": ..., "choices": [...], "answer": index}. Each choice is scored after the filled-in `template` and a
    space. lm-eval's `acc_norm` is reported. For a quick look, `limit` bounds the number of windows and of items.
    """

    texts: Any = None  # no type and no default, so that the command line can set a dictionary
    items: Any = None
    window: int = 1024
    stride: int | None = None
    join: str | None = None
    column: str = "text"
    template: str = "Question: {question}\nAnswer:"
    limit: int | None = None
    batch_size: int = 16
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for group in ("texts", "items"):
            object.__setattr__(self, group, _paths(group, getattr(self, group)))
        if not self.texts and not self.items:
            raise InputError(
                "eval=local needs a file: give 'eval.texts={NAME: FILE}' or 'eval.items={NAME: FILE}'."
            )
        check_limit(self.limit)
        check_batch_size(self.batch_size)
        if FIELD not in self.template:
            raise InputError(f"eval.template={self.template!r} must contain {FIELD}.")
        for name in self.texts:
            self._corpus(name).check("eval")

    def files(self) -> tuple[str, ...]:
        """The files of texts and of items."""
        return (*self.texts.values(), *self.items.values())

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The windows of each text and the items of each file."""
        data: dict[str, Data] = {}
        for name in self.texts:
            data[f"ppl/{name}"] = self._corpus(name).draw(tokenizer, f"eval.texts.{name}", self.limit)
        for name in self.items:
            data[f"acc/{name}"] = self._task(name, tokenizer)
        return data

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity on a text, or the accuracy on items."""
        if isinstance(data, EvalTask):
            return accuracy(name, forward, data, mask, self.batch_size)
        return corpus_perplexity(forward, name, data, mask, self._corpus(name.partition("/")[2]), self.limit)

    def _corpus(self, name: str) -> Corpus:
        cut = {"column": self.column, "join": self.join, "window": self.window, "stride": self.stride}
        return Corpus("file", self.texts[name], **cast(dict[str, Any], cut))

    def _task(self, name: str, tokenizer: Any) -> EvalTask:
        path = self.items[name]
        file = records.existing(path, f"eval.items.{name}")
        pool = [_item(record, where) for where, record in records.json_lines(file)]
        if not pool:
            raise InputError(f"eval.items.{name}={path}: the file contains no items. Give one item per line.")
        task = item_task(name, pool, self.template)
        # Make lm-eval record the path of this file instead of the temporary file's path.
        task.set_config("dataset_kwargs", {"data_files": {"test": str(file.resolve())}})
        return EvalTask(task, path, tokenizer, self.limit)


def _item(record: Any, where: str) -> Item:
    """Check a record and return its item. Raises InputError as for calibration items.

    In contrast to calibration items, choices can be equal, because some items of ARC have equal choices.
    """
    question = records.text_field(record, "question", where)
    choices, answer = record.get("choices"), record.get("answer")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not texts or len(choices) < 2:
        raise InputError(f"{where}: 'choices' must list at least two texts, none of them empty.")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise InputError(f"{where}: 'answer' must be an index from 0 to {len(choices) - 1}, not {answer!r}.")
    return Item(question, tuple(choices), answer)


def _paths(group: str, value: Any) -> dict[str, str]:
    """The paths by name. Raises InputError if `value` is not a mapping of names to paths."""
    paths = {} if value is None else value
    if not isinstance(paths, Mapping) or not all(isinstance(path, str) for path in paths.values()):
        raise InputError(f"eval.{group}={value}: give names and paths, 'eval.{group}={{NAME: FILE}}'.")
    check_names(f"eval.{group}", paths)
    return {str(name): path for name, path in paths.items()}


def item_task(name: str, pool: list[Item], template: str) -> Any:
    """A task of lm-eval on items, loaded from two temporary files: a YAML file of settings and a file of data."""
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder, quiet():
        rows = [{"question": i.question, "choices": list(i.choices), "answer": i.answer} for i in pool]
        data = Path(folder) / "items.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(data)},
                "cache_dir": str(Path(folder) / "cache"),
                "keep_in_memory": True,
            },
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": template.replace(FIELD, "{{question}}"),
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "num_fewshot": 0,
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm")
            ],
            "metadata": {"version": 1.0},
        }
        (Path(folder) / "task.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        tasks = TaskManager(include_path=folder, include_defaults=False).load([name])["tasks"]
    return tasks[name]
