"""Measure what a model writes (`eval=generation`): continuations, answers to questions, and few-shot tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.calibration.items import TEMPLATE, check_fields, check_template
from pruning.calibration.records import existing
from pruning.core.continuation_record import METRIC
from pruning.core.errors import InputError
from pruning.evaluation import Data, Measured
from pruning.evaluation.accuracy import accuracy
from pruning.evaluation.continuations import Prompts, measure_continuations
from pruning.evaluation.exact_answers import exact_answers
from pruning.evaluation.generation_task import GenerationTask
from pruning.evaluation.local import named_paths, named_templates
from pruning.evaluation.named_task import named_data
from pruning.evaluation.perplexity import check_limit, check_names
from pruning.evaluation.prompts import PromptDraw
from pruning.evaluation.question_task import question_task
from pruning.evaluation.questions import read_questions
from pruning.evaluation.task_group import TaskGroup
from pruning.evaluation.tasks import EvalTask
from pruning.evaluation.zeroshot import check_batch_size

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

NEW_TOKENS = 64  # for an answer to a question of a local file


@dataclass(frozen=True)
class Generation:
    """Metrics: `self_ppl/continuations` and two numbers beside it; `exact/<name>` or `acc/<name>` of each task.

    The dense model continues `prompts` windows of `prompt_tokens` tokens of the held-out part of `source` (or of the
    text file `path`, with source=file) by up to `continuation_tokens` tokens; 0 prompts: no continuations. `generate`
    names files of questions, to which the model writes the answer after `template` (`templates`: one for each file).
    `tasks` are tasks or groups of lm-eval, generated or multiple-choice. `num_fewshot` examples are in each prompt
    (null: none for files, the task's own number for lm-eval's). Up to `max_new_tokens` are generated (null: 64 for
    files, the task's own number for lm-eval's); generation stops at a text of `stop` in files.
    """

    tasks: list[str] = field(default_factory=list)
    generate: Any = None  # no type and no default, so that the command line can set a dictionary
    prompts: int = 32
    prompt_tokens: int = 64
    continuation_tokens: int = 64
    source: str = "pydoc"
    path: str | None = None
    column: str = "text"
    seed: int = 0
    num_fewshot: int | None = None
    max_new_tokens: int | None = None
    stop: list[str] = field(default_factory=lambda: ["\n"])
    template: str = TEMPLATE
    templates: Any = None  # as `generate`
    limit: int | None = None
    batch_size: int = 16
    allow_overlap: bool = False

    compares: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "generate", named_paths("generate", self.generate))
        object.__setattr__(self, "templates", named_templates(self.templates, self.generate, "generate"))
        check_names("eval.tasks", self.tasks)
        check_limit(self.limit)
        check_batch_size(self.batch_size)
        check_template("eval.template", self.template)
        self._draw.check()
        for name, least in (("num_fewshot", 0), ("max_new_tokens", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"eval.{name}={value}: give at least {least}, or null.")
        if "" in self.stop:
            raise InputError(f"eval.stop={self.stop} holds an empty text: every answer would stop at once.")
        if any(r"\n" in stop for stop in self.stop):
            raise InputError(
                f"eval.stop={self.stop} contains a backslash and an n, which are no new line: in bash, write "
                "$'eval.stop=[\"\\n\"]', which contains a new line."
            )
        if both := sorted(set(self.tasks) & set(self.generate)):
            raise InputError(f"eval.tasks and eval.generate both have the name {both[0]}: rename the file's.")
        if not (self.prompts or self.tasks or self.generate):
            raise InputError(
                "eval=generation has nothing to measure: give eval.prompts=32, 'eval.tasks=[TASK]' or "
                "'eval.generate={NAME: FILE}'."
            )

    @property
    def _draw(self) -> PromptDraw:
        lengths = (self.prompts, self.prompt_tokens, self.continuation_tokens)
        return PromptDraw(*lengths, self.source, self.path, self.column, self.seed)

    def files(self) -> tuple[str, ...]:
        """The file of the prompts and the files of questions."""
        return (*((self.path,) if self.prompts and self.path else ()), *self.generate.values())

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The prompts, the questions of each file, and the documents of each task."""
        data: dict[str, Data] = {METRIC: self._draw.draw(tokenizer)} if self.prompts else {}
        for name in self.generate:
            data[f"exact/{name}"] = self._questions(name, tokenizer)
        for name in dict.fromkeys(self.tasks):
            data |= named_data(name, tokenizer, self.limit, self.num_fewshot, self.max_new_tokens)
        return data

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity of continuations, the share of right answers, or the accuracy."""
        if isinstance(data, Prompts):
            return measure_continuations(forward, data, mask, self.batch_size)
        if isinstance(data, TaskGroup):
            return data.measure_each(name, partial(self._member, forward, mask))
        return self._member(forward, mask, name, data)

    def _member(self, forward: Forward, mask: Mask, name: str, data: Data) -> Measured:
        if isinstance(data, GenerationTask):
            return exact_answers(name, forward, data, mask, self.batch_size)
        assert isinstance(data, EvalTask)
        return accuracy(name, forward, data, mask, self.batch_size)

    def _questions(self, name: str, tokenizer: Any) -> GenerationTask:
        path = self.generate[name]
        pool = read_questions(existing(path, f"eval.generate.{name}"))
        templates: Mapping[str, str] = self.templates
        template = templates.get(name, self.template)
        check_fields(f"eval.templates.{name}" if name in templates else "eval.template", template)
        length = self.max_new_tokens or NEW_TOKENS
        settings = {"until": list(self.stop), "do_sample": False, "max_gen_toks": length}
        options = {"tokenizer": tokenizer, "limit": self.limit}
        return question_task(name, pool, template, path, self.num_fewshot or 0, settings, **options)
