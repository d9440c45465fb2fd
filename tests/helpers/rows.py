"""Random token rows of texts and items, and a simple reference computation of their log-likelihoods."""

from __future__ import annotations

import random
from typing import Any

import torch

from pruning.calibration.samples import Row
from pruning.models.handle import LanguageModel, ModelInfo
from tests.helpers.architectures import N_BLOCKS, without


def language_model(module: Any) -> LanguageModel:
    return LanguageModel(module, ModelInfo("tiny", "test", "0", N_BLOCKS, "float32", 0))


def text_rows(count: int, longest: int = 14, seed: int = 0) -> tuple[Row, ...]:
    rng = random.Random(f"{count} {seed}")
    rows = []
    for _ in range(count):
        length = rng.randint(3, longest)
        start = rng.randint(1, length - 1)
        rows.append(Row(_tokens(rng, length), (start, rng.randint(start + 1, length))))
    return tuple(rows)


def item_rows(count: int, seed: int = 0) -> tuple[Row, ...]:
    rng = random.Random(f"{count} {seed}")
    rows = []
    for item in range(count):
        prompt = _tokens(rng, rng.randint(2, 6))
        for choice in range(rng.randint(2, 4)):
            ids = prompt + _tokens(rng, rng.randint(1, 4))
            rows.append(Row(ids, (len(prompt), len(ids)), item, choice, choice == 0))
    return tuple(rows)


def _tokens(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randint(3, 96) for _ in range(count))


def plain(module: Any, dropped: tuple[int, ...], rows: tuple[Row, ...]) -> list[float]:
    """The log-likelihoods of rows, each from its own forward pass, with the blocks physically removed."""
    smaller = without(module, dropped).to(module.dtype)
    return [loglik(smaller, row) for row in rows]


def loglik(module: Any, row: Row) -> float:
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0].double()
    scores = torch.log_softmax(logits, -1)
    return sum(float(scores[t - 1, row.input_ids[t]]) for t in range(*row.span))
