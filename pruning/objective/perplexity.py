"""Perplexity: how well the pruned model predicts the calibration text.

Source: the paper's objective A; SLEB (arXiv 2402.09025, section 3.2); Shortened LLaMA (2402.02834).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pruning.core.mask import Mask
from pruning.objective import Loss

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Perplexity:
    """Token-mean negative log-likelihood, in nats; its exponential is the perplexity.

    Let [a, b) be the scored positions of window r, x_t the tokens of r, and n the number of scored tokens of all
    windows:

        loss = -(1 / n) * sum over r, sum over a <= t < b of ln p(x_t | x_<t)

    The term of a sample is the mean over its window's scored tokens. The first token of a window is never scored.
    """

    needs: ClassVar[str] = "text"
    bounded: ClassVar[bool] = True  # whether its loss has bounds

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss over text windows, with one term per window."""
        from pruning.engine.bounds import bounds
        from pruning.engine.head import LIKELIHOOD

        tokens = np.array([row.span[1] - row.span[0] for row in samples.rows])

        def means(
            found: Iterator[tuple[Mask, list[float], float]],
        ) -> Iterator[tuple[Mask, Sequence[float], float]]:
            for mask, logliks, seconds in found:
                yield mask, (-np.array(logliks) / tokens).tolist(), seconds

        def gates(unit: str) -> np.ndarray[Any, Any]:
            from pruning.engine.dense_pass import gate_gradients

            return np.asarray(-gate_gradients(forward, samples.rows, unit) / tokens[:, None])

        return Loss(
            samples.estimate(),
            lambda masks: means(forward.loglikelihoods(samples.rows, masks)),
            gates,
            (lambda masks: means(bounds(forward, samples.rows, masks, LIKELIHOOD)))
            if forward.bounds
            else None,
        )
