"""The perplexity of a mask on windows of text."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pruning.core import atomic_files
from pruning.core.metric_names import with_error
from pruning.core.result import TERMS
from pruning.evaluation import Measured
from pruning.objective.perplexity import Perplexity

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.core.mask import Mask
    from pruning.engine.forward import Forward

HIGHEST = 700.0  # nats; exp(709.8) overflows a float


def perplexity(name: str, forward: Forward, samples: Samples, mask: Mask) -> Measured:
    """The exponential of the mean negative log-likelihood per token, and its standard error over the windows.

    The loss of each window is kept, so that masks can be compared window by window.
    """
    loss = Perplexity().bind(forward, samples)
    (score,) = loss([mask])
    value = math.exp(min(score.loss, HIGHEST))
    # The delta method: d exp(x) = exp(x) dx.
    metrics = with_error(name, value, value * loss.estimate.error(score.samples), samples.count)
    kept = {
        "losses": [*map(short, score.samples)],
        "tokens": [row.span[1] - row.span[0] for row in samples.rows],
    }
    return Measured(metrics, windows_record(samples), terms_file(kept))


def terms_file(terms: dict[str, Any]) -> dict[str, bytes]:
    """The file with what was measured on each sample, by its ending; see `Measured.files`."""
    return {TERMS: json.dumps(atomic_files.sealed(terms)).encode()}


def short(loss: float) -> float:
    """A loss or a log-likelihood with the digits that are kept."""
    return float(f"{float(loss):.9g}")


def windows_record(samples: Samples) -> dict[str, Any]:
    """The record of text windows: source, number, tokens of the longest window, and number of scored tokens."""
    return {
        "source": samples.source,
        "windows": samples.count,
        "longest": samples.length,
        "tokens_scored": sum(row.span[1] - row.span[0] for row in samples.rows),
    }
