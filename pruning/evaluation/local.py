"""Evaluate on local files (`eval=local`): perplexity on text, accuracy on multiple-choice items through lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pruning.calibration.item_records import read_items
from pruning.calibration.items import TEMPLATE, check_fields, check_template
from pruning.calibration.records import existing
from pruning.core.errors import InputError, unknown
from pruning.evaluation import Data, Measured
from pruning.evaluation.accuracy import accuracy
from pruning.evaluation.corpus import Corpus
from pruning.evaluation.engine_answers import check_scorer
from pruning.evaluation.item_task import item_task
from pruning.evaluation.perplexity import check_limit, check_names, corpus_perplexity
from pruning.evaluation.tasks import EvalTask
from pruning.evaluation.zeroshot import check_batch_size

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class LocalFiles:
    """Metrics: `ppl/<name>` per file of `texts`, `acc/<name>` per file of `items`, `acc/mean` for several such files.

    Texts are `.txt`, `.jsonl` or `.parquet` files, cut into windows as in `Corpus`. Items are files of JSON lines or
    of a JSON array, in the forms of `calibration.item_records`. Each choice is scored after the filled-in template
    and a space; `templates` maps the names of files to their own templates. `acc/<name>` is lm-eval's `acc_norm`, and
    `acc_plain/<name>` its `acc`. For a quick look, `limit` bounds the number of windows and of items. `scorer` is
    `lm_eval` or `engine`; see `engine_answers`.
    """

    texts: Any = None  # no type and no default, so that the command line can set a dictionary
    items: Any = None
    window: int = 1024
    stride: int | None = None
    join: str | None = None
    column: str = "text"
    template: str = TEMPLATE
    templates: Any = None  # as `texts`
    limit: int | None = None
    batch_size: int = 16
    scorer: str = "lm_eval"
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for group in ("texts", "items"):
            object.__setattr__(self, group, named_paths(group, getattr(self, group)))
        if not self.texts and not self.items:
            raise InputError(
                "eval=local needs a file: give 'eval.texts={NAME: FILE}' or 'eval.items={NAME: FILE}'."
            )
        check_limit(self.limit)
        check_batch_size(self.batch_size)
        check_scorer(self.scorer)
        object.__setattr__(self, "templates", named_templates(self.templates, self.items, "items"))
        check_template("eval.template", self.template)
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
        # Items of ARC can have equal choices, and lm-eval accepts them.
        pool = read_items(existing(path, f"eval.items.{name}"), equal_choices=True)
        template = self.templates.get(name, self.template)
        check_fields(f"eval.templates.{name}" if name in self.templates else "eval.template", template)
        return item_task(
            name, pool, template, path, tokenizer=tokenizer, limit=self.limit, scorer=self.scorer
        )


def named_templates(value: Any, files: Mapping[str, str], group: str) -> dict[str, str]:
    """The templates by name. Raises InputError if a name is not one of `files`, or a template is wrong.

    `group` is the setting of the files, such as `items`.
    """
    templates = {} if value is None else value
    if not isinstance(templates, Mapping) or not all(isinstance(one, str) for one in templates.values()):
        raise InputError(
            f"eval.templates={value}: give names of eval.{group} and templates, "
            "'eval.templates={NAME: \"TEMPLATE\"}'."
        )
    for name, template in templates.items():
        if str(name) not in files:
            raise unknown("name in eval.templates", str(name), files)
        check_template(f"eval.templates.{name}", template)
    return {str(name): template for name, template in templates.items()}


def named_paths(group: str, value: Any) -> dict[str, str]:
    """The paths by name. Raises InputError if `value` is not a mapping of names to paths."""
    paths = {} if value is None else value
    if not isinstance(paths, Mapping) or not all(isinstance(path, str) for path in paths.values()):
        raise InputError(f"eval.{group}={value}: give names and paths, 'eval.{group}={{NAME: FILE}}'.")
    check_names(f"eval.{group}", paths)
    return {str(name): path for name, path in paths.items()}
