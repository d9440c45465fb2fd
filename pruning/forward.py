"""Log-likelihoods of token rows under many masks: the work that the program spends its life on.

Objectives see one method, `Forward.loglikelihoods`. This is the plain way of doing it, one masked forward
pass per mask and batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.blocks import masked
from pruning.mask import Mask

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models import LanguageModel


@dataclass(frozen=True)
class Batch:
    """Rows of similar length: ids (B, T), right-padded; attention (B, T), or None where nothing is padded."""

    indices: tuple[int, ...]
    ids: Tensor
    attention: Tensor | None
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Forward:
    """Forward passes of one model; `batch_tokens` bounds the tokens, padding included, of one batch."""

    model: LanguageModel
    batch_tokens: int = 2048

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """For each mask: itself, the log-likelihood of each row's span in nats, the seconds it took."""
        batches = make_batches(tuple(rows), self.batch_tokens)
        for mask in masks:
            started = time.perf_counter()
            values = [0.0] * len(rows)
            with torch.inference_mode(), masked(self.model.module, mask):
                for batch in batches:
                    for index, value in zip(batch.indices, self._batch(batch), strict=True):
                        values[index] = value
            yield mask, values, time.perf_counter() - started

    def _batch(self, batch: Batch) -> list[float]:
        device = self.model.device
        attention = None if batch.attention is None else batch.attention.to(device)
        ids = batch.ids.to(device)
        logits = self.model.module(input_ids=ids, attention_mask=attention, use_cache=False).logits
        return [span_loglikelihood(logits[row], ids[row], span) for row, span in enumerate(batch.spans)]


def span_loglikelihood(logits: Tensor, ids: Tensor, span: tuple[int, int]) -> float:
    """Sum of ln p(ids[t] | ids[:t]) over the span, in float32 per token and float64 over tokens.

    Shapes: logits (T, V), ids (T,). The logits at t - 1 predict the token at t.
    """
    start, stop = span
    scores = logits[start - 1 : stop - 1].float().log_softmax(-1)  # (span, V)
    chosen = scores.gather(-1, ids[start:stop, None].to(scores.device))
    return float(chosen.double().sum())


@lru_cache(maxsize=8)
def make_batches(rows: tuple[Row, ...], batch_tokens: int) -> tuple[Batch, ...]:
    """Sort rows by length and pack them; the packing depends on the rows alone, so losses repeat exactly."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].input_ids), i))
    batches: list[list[int]] = []
    for index in order:
        width = len(rows[index].input_ids)
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return tuple(_pad([rows[i] for i in batch], tuple(batch)) for batch in batches)


def _pad(rows: Sequence[Row], indices: tuple[int, ...]) -> Batch:
    width = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, : len(row.input_ids)] = torch.tensor(row.input_ids)
        attention[line, : len(row.input_ids)] = 1
    padded = bool((attention == 0).any())
    return Batch(indices, ids, attention if padded else None, tuple(row.span for row in rows))
