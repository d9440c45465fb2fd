"""Measure generated text (`eval=generation`): continuations, and lm-eval tasks whose answers are generated.

The dense model samples a continuation of each prompt. A smaller model is measured by its perplexity on these
continuations. The log ratio of its perplexity to the dense model's is an unbiased estimate of KL(dense ||
smaller) per token, on text that the dense model writes. Greedy continuations are unsuitable: they are often
loops, which have a perplexity near 1 under every model that also loops.

All models also continue the prompts greedily, for people to read. Two numbers describe these continuations:
the share of the dense model's tokens before the first token that differs, and the share of repeated token runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import PARTED, TextSource, check_path
from pruning.calibration.text import SHORTEST, drawn_windows
from pruning.core.errors import DamagedError, InputError, check_known, check_least
from pruning.core.records import ENDING, METRIC, ContinuationRecord, read_continuations, with_error
from pruning.core.scoring import mean, standard_error
from pruning.core.storage import text_sha256
from pruning.engine import collectives
from pruning.evaluation import Data, Measured
from pruning.evaluation.corpora import perplexity
from pruning.evaluation.lm_eval_tasks import Task, check_asking, generating, measure_task, tasks_data

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

log = logging.getLogger(__name__)

NAME = METRIC.partition("/")[2]
SOURCES = (*PARTED, "file")
Tokens = Sequence[int]


@dataclass(frozen=True)
class Generation:
    """Measures continuations (`self_ppl`, `same`, `repeated`), and `exact/<name>` or `acc/<name>` of each task.

    The dense model continues `prompts` windows of `prompt_tokens` tokens by up to `continuation_tokens` tokens each.
    The windows are from the held-out part of `source` or, if source=file, from the text file `path`. If `prompts` is
    0, nothing is continued. `tasks` are lm-eval's tasks or groups (generated or multiple-choice). Each prompt of a
    task has `num_fewshot` examples, and up to `max_new_tokens` tokens are generated; null: the task's own number.
    """

    tasks: list[str] = field(default_factory=list)
    prompts: int = 32
    prompt_tokens: int = 64
    continuation_tokens: int = 64
    source: str = "pydoc"
    path: str | None = None
    column: str = "text"
    seed: int = 0
    num_fewshot: int | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    batch_size: int = 16
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        check_asking(self)
        least = {"prompts": 0, "prompt_tokens": SHORTEST, "continuation_tokens": 1, "seed": 0}
        least |= {"num_fewshot": 0, "max_new_tokens": 1}
        check_least("eval", self, **least)
        check_known("eval", self, source=SOURCES)
        check_path(self.source, self.path, "eval")
        if not (self.prompts or self.tasks):
            raise InputError(
                "eval=generation has nothing to measure: give eval.prompts=32 or 'eval.tasks=[TASK]'."
            )

    def data(self, tokenizer: Any) -> dict[str, Data]:
        """The prompts, and the documents of each task."""
        data: dict[str, Data] = {}
        if self.prompts:
            documents = TextSource.of(self, part="heldout").documents("eval")
            source = str(Path(self.path)) if self.path else self.source
            draw = (self.prompts, self.prompt_tokens, self.seed)
            names = ("prompts", "prompt_tokens")
            windows = drawn_windows(documents, tokenizer, source, draw, "eval", names)
            data[METRIC] = Prompts(windows, self.continuation_tokens, tokenizer)
        for name in dict.fromkeys(self.tasks):
            written, task = tasks_data(
                name, tokenizer, self.limit, "lm_eval", self.num_fewshot, self.max_new_tokens, written=True
            )
            data[f"{'exact' if written else 'acc'}/{name}"] = task
        return data

    def measure(self, forward: Forward, name: str, data: Data, mask: Mask) -> Measured:
        """The perplexity of continuations, the share of right answers, or the accuracy."""
        if isinstance(data, Prompts):
            return measure_continuations(forward, data, mask, self.batch_size)
        return measure_task(name, forward, cast(Task, data), mask, self.batch_size)


Written = tuple[tuple[int, ...], ...]  # the continuation of each prompt


@dataclass(frozen=True)
class Prompts:
    """Prompts of equal length (`windows`), each continued by at most `new_tokens` tokens.

    The seed of `windows` also seeds the sampling of continuations. `dense` contains the dense model's
    sampled and greedy continuations; None before they exist.
    """

    windows: Samples
    new_tokens: int
    tokenizer: Any = field(compare=False)
    dense: tuple[Written, Written] | None = None

    @property
    def source(self) -> str:
        """The origin of the prompts."""
        return self.windows.source

    @cached_property
    def sha256(self) -> str:
        """Digest of the prompts, the number of new tokens and the seed, which decide a model's continuations."""
        return text_sha256(json.dumps([self.windows.sha256, self.new_tokens, self.windows.seed, "sampled"]))

    @property
    def length(self) -> int:
        """The number of tokens in a prompt together with its longest continuation."""
        return self.windows.length + self.new_tokens

    def shared(self, calibration: Samples, /) -> int:
        """The number of token runs in the prompts that are also in the calibration data."""
        return self.windows.shared(calibration)

    def beside(self, dense: Path) -> Prompts:
        """These prompts with the dense model's continuations; `dense` is the file of its measurement.

        Raises DamagedError if the file of the dense model's continuations is missing or damaged.
        """
        kept = collectives.on_first(lambda: read_continuations(dense))
        if kept is None or "sampled" not in kept:
            raise DamagedError(
                f"the continuations of the dense model are not beside {dense}: move this file away, so that the "
                "dense model is measured again."
            )
        sampled, greedy = (tuple(map(tuple, rows)) for rows in (kept["sampled"], kept["greedy"]))
        return replace(self, dense=(sampled, greedy))


def measure_continuations(forward: Forward, data: Prompts, mask: Mask, batch_size: int) -> Measured:
    """Perplexity on the dense model's sampled texts; `same` and `repeated` of the measured model's greedy texts.

    The dense model must be measured first.
    """
    log.info("continuing %d prompts with %s removed", data.windows.count, mask)
    prompts = [row.input_ids for row in data.windows.rows]
    with generating(forward, mask):
        each = (forward.model.module, prompts, data.new_tokens, batch_size)
        greedy = tuple(continued(*each, watch=forward.watch))
        if data.dense is None and mask.dropped:
            raise ValueError("the dense model is measured before its masks")
        sampled, first = data.dense or (
            tuple(continued(*each, seed=data.windows.seed, watch=forward.watch)),
            greedy,
        )
    # Only the continuations are scored, not the prompts.
    rows = tuple(
        Row((*prompt, *tokens), (len(prompt), len(prompt) + len(tokens)))
        for prompt, tokens in zip(prompts, sampled, strict=True)
    )
    measured = perplexity(METRIC, forward, replace(data.windows, rows=rows), mask)
    metrics = dict(measured.metrics)
    for name, values in (
        ("same", [same_start(*pair) for pair in zip(greedy, first, strict=True)]),
        ("repeated", [repeated(tokens) for tokens in greedy]),
    ):
        metrics |= with_error(f"{name}/{NAME}", mean(values), standard_error(values), len(values))
    how = {
        "prompt_tokens": data.windows.length,
        "new_tokens": data.new_tokens,
        "seed": data.windows.seed,
        "scored": "continuations that the dense model samples at temperature 1",
        "compared": f"greedy continuations; repeated runs of {N} tokens",
        "sampled_sha256": text_sha256(json.dumps(sampled)),
    }
    kept: ContinuationRecord = {
        "prompts": _texts(data.tokenizer, prompts),
        "texts": _texts(data.tokenizer, greedy),
        "greedy": [list(row) for row in greedy],
    }
    if data.dense is None:
        kept["sampled"] = [list(row) for row in sampled]
    files = {**measured.files, ENDING: json.dumps(kept, ensure_ascii=False).encode()}
    return Measured(metrics, measured.how | how, files)


def _texts(tokenizer: Any, rows: Sequence[Tokens]) -> list[str]:
    return [str(tokenizer.decode(list(row), skip_special_tokens=True)) for row in rows]


N = 4  # tokens in a run that can be repeated


def repeated(tokens: Tokens, n: int = N) -> float:
    """The share of runs of `n` tokens that occurred earlier in the text; 0 if it has fewer than `n` tokens.

    This is seq-rep-n of "Neural Text Generation with Unlikelihood Training" (arXiv 1908.04319, section 6).
    """
    runs = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def same_start(tokens: Tokens, dense: Tokens) -> float:
    """The share of the dense model's tokens before the first one that differs from `tokens`; 1 if none differs."""
    pairs = zip(tokens, dense, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / len(dense)


# Continuations of prompts, with a cache.


def continued(
    module: Any,
    prompts: Sequence[Tokens],
    new_tokens: int,
    batch_size: int,
    seed: int | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[tuple[int, ...]]:
    """The continuation of each prompt: at most `new_tokens` tokens, up to and including the first end of text.

    All prompts have the same length. Without `seed`, decoding is greedy. With `seed`, tokens are sampled at
    temperature 1. Each rank continues a share of the prompts, and all ranks get all continuations.
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
    # If a setting is missing, transformers uses the model's. Many of these, such as `min_p`,
    # `suppress_tokens` and `sequence_bias`, change probabilities, so all are removed during generation.
    plain = patch.object(module, "generation_config", GenerationConfig())
    with torch.random.fork_rng(devices), plain:
        if seed is not None:
            torch.manual_seed(seed)
        output = module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
    return [until_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


def end_tokens(module: Any) -> tuple[int, ...]:
    """The end-of-text tokens of a model."""
    ends = module.generation_config.eos_token_id
    return () if ends is None else tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)


def until_end(tokens: Tokens, ends: Tokens) -> tuple[int, ...]:
    """The tokens up to and including the first end-of-text token; later tokens are padding."""
    stop = next((number for number, token in enumerate(tokens, start=1) if token in ends), len(tokens))
    return tuple(tokens[:stop])
