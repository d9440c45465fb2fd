"""Perplexity. Source: the paper's objective A; SLEB (arXiv 2402.09025, section 3.2); Shortened LLaMA (2402.02834)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pruning.core.mask import Mask
from pruning.core.scoring import Estimate
from pruning.objective import Forward, Loss, Row, Samples, Scored, mapped


@dataclass(frozen=True)
class Perplexity:
    """Token-mean negative log-likelihood of text, in nats; its exponential is the perplexity.

    Let [a, b) be the scored positions of window r, x_t the tokens of r, and n the number of scored tokens in
    all windows:

        loss = -(1 / n) * sum over r, sum over a <= t < b of ln p(x_t | x_<t)

    The term of a sample is the mean over its window's scored tokens. The first token of a window is never scored.
    """

    needs: ClassVar[str] = "text"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over text windows, with one term per window."""
        return of_rows(forward, samples.rows, samples.estimate())


def of_rows(forward: Forward, rows: Sequence[Row], estimate: Estimate) -> Loss:
    """The token-mean negative log-likelihood of rows, with one term per row."""
    from pruning.engine.bounds import bounds
    from pruning.engine.head import LIKELIHOOD

    tokens = np.array([row.span[1] - row.span[0] for row in rows])

    def means(logliks: list[float]) -> list[float]:
        negative: list[float] = (-np.array(logliks) / tokens).tolist()
        return negative

    def gates(unit: str) -> np.ndarray[Any, Any]:
        from pruning.engine.dense_pass import gate_gradients

        return np.asarray(-gate_gradients(forward, rows, unit) / tokens[:, None])

    def lower(masks: Sequence[Mask]) -> Scored:
        return mapped(bounds(forward, rows, masks, LIKELIHOOD), means)

    def terms(masks: Sequence[Mask]) -> Scored:
        return mapped(forward.loglikelihoods(rows, masks), means)

    return Loss(estimate, terms, gates, lower)
