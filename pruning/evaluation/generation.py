"""Measure what a model writes (`eval=generation`): continuations, answers to questions, and few-shot tasks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pruning.calibration import sources
from pruning.calibration.item_files import existing
from pruning.calibration.items import TEMPLATE, check_fields, check_template
from pruning.calibration.samples import Row, Samples, check_seed
from pruning.calibration.text import SHORTEST, WindowDraw
from pruning.core.errors import DamagedError, InputError, unknown
from pruning.core.records import (
    ENDING,
    METRIC,
    SHOWN,
    ContinuationRecord,
    error_of,
    filtered_of,
    read_continuations,
    with_error,
)
from pruning.core.scoring import mean, standard_error
from pruning.core.storage import text_sha256
from pruning.engine import collectives
from pruning.evaluation import Data, Measured
from pruning.evaluation.choices import EvalTask, accuracy, ask, lm_eval_files, quiet, record, value_and_error
from pruning.evaluation.corpora import check_limit, check_names, perplexity, terms_file
from pruning.evaluation.heldout import named_paths, named_templates
from pruning.evaluation.lm_eval_tasks import METRIC as EXACT
from pruning.evaluation.lm_eval_tasks import (
    GenerationTask,
    Question,
    TaskGroup,
    check_batch_size,
    named_data,
    read_questions,
)

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


# A small HTML page with continuations of the dense model beside those of a smaller model.

STYLE = (
    "body{font:14px/1.45 system-ui,sans-serif;margin:1.5rem}table{border-collapse:collapse;table-layout:fixed;"
    "width:100%}th,td{border:1px solid #bbb;padding:.5rem;text-align:left;vertical-align:top;"
    "white-space:pre-wrap;overflow-wrap:anywhere}"
)


def page(prompts: Sequence[str], dense: Sequence[str], smaller: Sequence[str]) -> str:
    """An HTML page with a table of the first prompts and of the two models' greedy continuations."""
    rows = [
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>"
        for texts in list(zip(prompts, dense, smaller, strict=True))[:SHOWN]
    ]
    heads = "".join(f"<th>{head}</th>" for head in ("prompt", "dense model", "smaller model"))
    title = "Greedy continuations"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<table><thead><tr>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></body></html>\n"
    )


# The dense model's own continuations of prompts, and how well a smaller model predicts them.
#
# The dense model continues each prompt twice:
#
# - By sampling from its own distribution. The perplexity of these continuations measures the smaller model: the
#   logarithm of its ratio to the dense model's is an unbiased estimate of the Kullback-Leibler divergence per token
#   of
#   the two models, on text that the dense model writes. Greedy continuations would not do: they are often loops,
#   whose
#   perplexity is near 1 for every model that also loops.
# - Greedily, which each smaller model does too. People read these, since they do not differ by chance. Two numbers
#   describe them: the share of tokens before the first difference, and the share of repeated runs of tokens.
#
# No right answers are needed.

NAME = METRIC.partition("/")[2]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What the dense model wrote: for each prompt, a sampled and a greedy continuation."""

    sampled: tuple[tuple[int, ...], ...]
    greedy: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Prompts:
    """Prompts of equal length, and the tokens and the seed of their continuations.

    `dense` is what the dense model wrote; it is None until the dense model was measured.
    """

    windows: Samples
    new_tokens: int
    tokenizer: Any = field(compare=False)
    dense: Written | None = None

    @property
    def source(self) -> str:
        """The origin of the prompts."""
        return self.windows.source

    @cached_property
    def sha256(self) -> str:
        """Digest of the prompts, and of what decides their continuations by a model."""
        return text_sha256(json.dumps([self.windows.sha256, self.new_tokens, self.windows.seed, "sampled"]))

    @property
    def length(self) -> int:
        """The number of tokens of a prompt and its longest continuation."""
        return self.windows.length + self.new_tokens

    def shared(self, calibration: Samples, /) -> int:
        """The number of runs of tokens that are also in the calibration data."""
        return self.windows.shared(calibration)

    def beside(self, dense: Path) -> Prompts:
        """These prompts with what the dense model wrote; `dense` is the file of its measurement.

        Raises DamagedError if the file of its continuations is missing or damaged.
        """
        kept = collectives.on_first(lambda: read_continuations(dense))
        if kept is None or "sampled" not in kept:
            raise DamagedError(
                f"the continuations of the dense model are not beside {dense}: move this file away, so that the "
                "dense model is measured again."
            )
        written = (tuple(map(tuple, kept["sampled"])), tuple(map(tuple, kept["greedy"])))
        return replace(self, dense=Written(*written))


def measure_continuations(forward: Forward, data: Prompts, mask: Mask, batch_size: int) -> Measured:
    """The perplexity of the dense model's continuations, and numbers about a model's own greedy continuations.

    If the dense model has not continued the prompts yet, `forward` and `mask` must be those of the dense model.
    """
    log.info("continuing %d prompts with %s removed", data.windows.count, mask)
    with generating(forward, mask) as module:
        each = (module, _prompts(data), data.new_tokens, batch_size)
        greedy = tuple(continued(*each, watch=forward.watch))
        dense = data.dense
        if dense is None:
            if mask.dropped:
                raise ValueError("the dense model is measured before its masks")
            sampled = tuple(continued(*each, seed=data.windows.seed, watch=forward.watch))
            dense = Written(sampled, greedy)
    measured = perplexity(METRIC, forward, _rows(data.windows, dense.sampled), mask)
    files = {**measured.files, **_files(data, greedy, dense)}
    return Measured(
        measured.metrics | _fluency(greedy, dense.greedy), measured.how | _how(data, dense), files
    )


def _files(data: Prompts, greedy: Sequence[Tokens], dense: Written) -> dict[str, bytes]:
    """A model's continuations and, if it is not the dense model, a page that shows them beside the dense model's."""
    prompts, texts = (_texts(data.tokenizer, rows) for rows in (_prompts(data), greedy))
    kept: ContinuationRecord = {"prompts": prompts, "texts": texts, "greedy": [list(row) for row in greedy]}
    if data.dense is None:
        kept["sampled"] = [list(row) for row in dense.sampled]
        return {ENDING: json.dumps(kept, ensure_ascii=False).encode()}
    shown = page(prompts, _texts(data.tokenizer, dense.greedy), texts)
    return {ENDING: json.dumps(kept, ensure_ascii=False).encode(), "continuations.html": shown.encode()}


def _prompts(data: Prompts) -> list[tuple[int, ...]]:
    return [row.input_ids for row in data.windows.rows]


def _rows(prompts: Samples, continuations: Sequence[Tokens]) -> Samples:
    """Prompts with continuations; the tokens of the continuations are scored."""
    rows = tuple(
        Row((*row.input_ids, *tokens), (len(row.input_ids), len(row.input_ids) + len(tokens)))
        for row, tokens in zip(prompts.rows, continuations, strict=True)
    )
    return replace(prompts, rows=rows)


def _fluency(greedy: Sequence[Tokens], dense: Sequence[Tokens]) -> dict[str, float]:
    """Means over the prompts with their standard errors: same start as the dense model, repeated runs of tokens."""
    values: Mapping[str, list[float]] = {
        f"same/{NAME}": [same_start(*pair) for pair in zip(greedy, dense, strict=True)],
        f"repeated/{NAME}": [repeated(tokens) for tokens in greedy],
    }
    metrics: dict[str, float] = {}
    for name, each in values.items():
        metrics |= with_error(name, mean(each), standard_error(each), len(each))
    return metrics


def _how(data: Prompts, dense: Written) -> dict[str, Any]:
    return {
        "prompt_tokens": data.windows.length,
        "new_tokens": data.new_tokens,
        "seed": data.windows.seed,
        "scored": "continuations that the dense model samples at temperature 1",
        "compared": f"greedy continuations; repeated runs of {N} tokens",
        "sampled_sha256": text_sha256(json.dumps(dense.sampled)),
    }


def _texts(tokenizer: Any, rows: Sequence[Tokens]) -> list[str]:
    return [str(tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows]


# Measure how many answers a model writes exactly right, on a task of lm-eval.


def exact_answers(name: str, forward: Forward, task: GenerationTask, mask: Mask, batch_size: int) -> Measured:
    """The share of right answers of a mask on a task, its standard error, and lm-eval's own results and samples.

    If a task extracts the answer in several ways, the first way gives the metric `name`; each has a metric. Raises
    RequestError if lm-eval sends other requests than those of the task's digest, InputError if the model cannot
    generate without these units.
    """
    log.info("generating %s with %s removed: %d items", name, mask, len(task.requests))
    with generating(forward, mask) as module:
        results, shortened = ask(name, forward, module, task, batch_size)
    return collectives.on_first(lambda: _measured(name, task, results, shortened))


def _measured(name: str, task: GenerationTask, output: Mapping[str, Any], shortened: int) -> Measured:
    """The measurement from lm-eval's output, whose keys are `metric,filter`."""
    label = task.task.task_name
    scores = output["results"][label]
    filters = [key.partition(",")[2] for key in scores if key.startswith(f"{EXACT},")]
    metrics: dict[str, float] = {}
    for number, way in enumerate(filters):
        own = name if number == 0 else filtered_of(name, way)
        error = scores.get(f"{EXACT}_stderr,{way}")
        metrics |= value_and_error(own, error_of(own), scores[f"{EXACT},{way}"], error)
    samples = [sample for sample in output["samples"][label] if sample["filter"] == filters[0]]
    how = record(task, output, f"{EXACT}, {filters[0]}", shortened)
    how["generation"] = dict(task.task.config.generation_kwargs or {})
    terms = {"hits": [float(sample[EXACT]) for sample in samples]}
    return Measured(metrics, how, {**lm_eval_files(output), **terms_file(terms)})


# Numbers about generated tokens that need no right answers.

N = 4  # tokens in a run that can be repeated


def repeated(tokens: Sequence[int], n: int = N) -> float:
    """The share of runs of `n` tokens that occurred before in the same text; 0 if there is no such run.

    This is seq-rep-n of "Neural Text Generation with Unlikelihood Training" (arXiv 1908.04319, section 6), and 1
    minus distinct-n of the text. A text that repeats one short phrase gets nearly 1.
    """
    runs = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def same_start(tokens: Sequence[int], dense: Sequence[int]) -> float:
    """The share of the dense model's tokens before the first one that differs; 1 if none differs."""
    pairs = zip(tokens, dense, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(dense)


# A masked model that can generate with a cache, and continuations of prompts.
#
# Skipping units works only without a cache, so the units are removed from the model in memory for the time of a
# context (`models/physical_removal.py`). The factors of a compensation are applied through hooks.

Tokens = Sequence[int]


@contextmanager
def generating(forward: Forward, mask: Mask) -> Iterator[Any]:
    """Within this context the model lacks the units of a mask and can generate; yields the transformers model.

    Raises InputError if the architecture cannot describe these units, as an export does.
    """
    from pruning.models.blocks import add_scales, find_blocks
    from pruning.models.removal import blocks_removed, smaller_config

    module = forward.model.module
    if not mask.dropped:
        yield module
        return
    blocks = find_blocks(module).modules
    kept = [blocks[index] for index in range(mask.n_blocks) if index not in mask.gone]
    with ExitStack() as stack:
        stack.enter_context(blocks_removed(module, mask, smaller_config(module, mask)))
        if forward.scales is not None:
            for handle in add_scales(kept, mask, forward.scales):
                stack.callback(handle.remove)
        yield module


def continued(
    module: Any,
    prompts: Sequence[Tokens],
    new_tokens: int,
    batch_size: int,
    seed: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[tuple[int, ...]]:
    """The continuation of each prompt: at most `new_tokens` tokens, the last of them an end of text if there is one.

    All prompts have the same length, so nothing is padded. Without `seed`, each token is the likeliest one. With
    `seed`, tokens are drawn from the model's own distribution (temperature 1, nothing cut off). If there are several
    ranks, each continues a share, and all ranks get all continuations.
    """
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    numbered = collectives.share_of(list(enumerate(batches)))
    found = []
    for done, (number, batch) in enumerate(numbered, start=1):
        found.append(_batch(module, batch, new_tokens, None if seed is None else seed + number))
        if watch is not None:
            watch(done, len(numbered))
    return [tokens for batch in collectives.gather(found) for tokens in batch]


def _batch(
    module: Any, prompts: Sequence[Tokens], new_tokens: int, seed: int | None
) -> list[tuple[int, ...]]:
    import torch
    from transformers import GenerationConfig

    from pruning.models.blocks import input_device

    ids = torch.tensor([list(prompt) for prompt in prompts], device=input_device(module))
    ends = end_tokens(module)
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=seed is not None,
        top_k=None if seed is None else 0,  # without a value, transformers takes 50
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
    )
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _without_own_settings(module):
        if seed is not None:
            torch.manual_seed(seed)
        output = module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
    return [until_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


@contextmanager
def _without_own_settings(module: Any) -> Iterator[None]:
    """Within this context, the model has no generation settings of its own.

    transformers uses a model's own settings in place of missing ones, and many of them change probabilities, such as
    `min_p`, `suppress_tokens` and `sequence_bias`.
    """
    from transformers import GenerationConfig

    own = module.generation_config
    module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        module.generation_config = own


def end_tokens(module: Any) -> tuple[int, ...]:
    """The tokens that end a text of this model."""
    own = getattr(module, "generation_config", None)
    for settings in (own, module.config.get_text_config(decoder=True)):
        ends = getattr(settings, "eos_token_id", None)
        if ends is not None:
            return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)
    return ()


def until_end(tokens: Tokens, ends: Sequence[int]) -> tuple[int, ...]:
    """The tokens up to the first end of text, which is included; what follows is padding."""
    stop = next((number for number, token in enumerate(tokens, start=1) if token in ends), len(tokens))
    return tuple(tokens[:stop])


# Draw the prompts that models continue: windows of held-out text, or of a text file.

SOURCES = (*sources.PARTED, "file")


@dataclass(frozen=True)
class PromptDraw:
    """`prompts` windows of `length` tokens, to be continued by up to `new_tokens` tokens.

    `source` is an embedded text, whose held-out part is used, or `file`: the `.txt`, `.jsonl` or `.parquet` file
    `path`.
    """

    prompts: int
    length: int
    new_tokens: int
    source: str
    path: str | None
    column: str
    seed: int

    # `sources.documents` reads these attributes besides the settings.
    part: ClassVar[str] = "heldout"
    name: ClassVar[str | None] = None
    split: ClassVar[str] = ""
    revision: ClassVar[str | None] = None
    stream: ClassVar[bool] = False

    def check(self) -> None:
        """Raise InputError if a setting is invalid."""
        if self.prompts < 0:
            raise InputError(f"eval.prompts={self.prompts}: give at least 1, or 0 for no continuations.")
        if self.length < SHORTEST:
            raise InputError(
                f"eval.prompt_tokens={self.length} is too short: give at least {SHORTEST} tokens."
            )
        if self.new_tokens < 1:
            raise InputError(f"eval.continuation_tokens={self.new_tokens}: give at least 1.")
        check_seed(self.seed, "eval")
        if self.source not in SOURCES:
            raise unknown("eval.source", self.source, SOURCES)
        if self.path is not None and self.source != "file":
            raise InputError(f"eval.path={self.path} is used with eval.source=file only: give both.")
        if self.source == "file" and not self.path:
            raise InputError("eval.source=file needs a file: give eval.path=FILE.")

    def draw(self, tokenizer: Any) -> Prompts:
        """The prompts. Raises InputError if the text is too short for them."""
        if self.source == "file":
            existing(self.path, "eval.path")
        label = str(Path(self.path)) if self.path else self.source
        documents = sources.documents(self, "eval")
        names = ("prompts", "prompt_tokens")
        draw = WindowDraw(self.prompts, self.length, self.seed, "eval", names=names)
        return Prompts(draw.windows(documents, tokenizer, label), self.new_tokens, tokenizer)


# A task of lm-eval on the questions of a local file.
#
# As in `item_task.py`, lm-eval gets no template: every field of the task is the name of a field of the documents,
# which lm-eval returns as it is. Examples are part of the filled-in prompts, in lm-eval's format: a space before an
# answer, an empty line after it.


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
        "metric_list": [{"metric": EXACT, "aggregation": "mean", "higher_is_better": True}],
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
    return {EXACT: float(question.right(written[0]))}
