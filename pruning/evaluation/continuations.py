"""The dense model's own continuations of prompts, and how well a smaller model predicts them.

The dense model continues each prompt twice:

- By sampling from its own distribution. The perplexity of these continuations measures the smaller model: the
  logarithm of its ratio to the dense model's is an unbiased estimate of the Kullback-Leibler divergence per token of
  the two models, on text that the dense model writes. Greedy continuations would not do: they are often loops, whose
  perplexity is near 1 for every model that also loops.
- Greedily, which each smaller model does too. People read these, since they do not differ by chance. Two numbers
  describe them: the share of tokens before the first difference, and the share of repeated runs of tokens.

No right answers are needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.calibration.samples import Row, Samples
from pruning.core.continuation_record import ENDING, METRIC, ContinuationRecord, read_continuations
from pruning.core.errors import DamagedError
from pruning.core.estimate import mean, standard_error
from pruning.core.hashing import text_sha256
from pruning.core.metric_names import with_error
from pruning.distributed import collectives
from pruning.evaluation import Measured
from pruning.evaluation.continuation_page import page
from pruning.evaluation.fluency import N, repeated, same_start
from pruning.evaluation.generating import Tokens, continued, generating
from pruning.evaluation.text import perplexity

if TYPE_CHECKING:
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

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
