"""Perplexity: how well the pruned model predicts the calibration text.

Source: the paper's objective A; SLEB (arXiv 2402.09025, section 3.2); Shortened LLaMA (2402.02834).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pruning.mask import Mask
from pruning.objective import LossFn
from pruning.scores import Score

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.forward import Forward


@dataclass(frozen=True)
class Perplexity:
    """Token-mean negative log-likelihood, in nats; its exponential is the perplexity.

    With windows r, the tokens x_t of a window's span [a, b), and n the number of all scored tokens:

        loss = -(1 / n) * sum over r, sum over a <= t < b of ln p(x_t | x_<t)

    The per-sample terms are the windows' own means; the first token of a window is never scored.
    """

    needs: ClassVar[str] = "text"

    def bind(self, forward: Forward, samples: Samples) -> LossFn:
        """Losses over text windows; one term a window."""
        tokens = [stop - start for start, stop in (row.span for row in samples.rows)]

        def losses(masks: Sequence[Mask]) -> Iterator[Score]:
            for mask, logliks, seconds in forward.loglikelihoods(samples.rows, masks):
                loss = -math.fsum(logliks) / sum(tokens)
                terms = tuple(-loglik / n for loglik, n in zip(logliks, tokens, strict=True))
                yield Score(mask, loss, terms, seconds)

        return losses
