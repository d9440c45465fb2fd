"""The perplexity of a mask on windows of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pruning.core.metric_names import with_error
from pruning.objective.perplexity import Perplexity

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

HIGHEST = 700.0  # nats; exp(709.8) overflows a float


def perplexity(name: str, forward: Forward, samples: Samples, mask: Mask) -> dict[str, float]:
    """The exponential of the mean negative log-likelihood per token, and its standard error over the windows."""
    loss = Perplexity().bind(forward, samples)
    (score,) = loss([mask])
    value = math.exp(min(score.loss, HIGHEST))
    # The delta method: d exp(x) = exp(x) dx.
    return with_error(name, value, value * loss.estimate.error(score.samples), samples.count)


def windows_record(samples: Samples) -> dict[str, Any]:
    """The record of text windows: source, number, tokens of the longest window, and number of scored tokens."""
    return {
        "source": samples.source,
        "windows": samples.count,
        "longest": samples.length,
        "tokens_scored": sum(row.span[1] - row.span[0] for row in samples.rows),
    }
