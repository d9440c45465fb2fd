"""Compare two masks by their losses on the same samples: held-out windows, or the samples of the calibration.

The difference of two losses has an error that is much smaller than that of each, because a sample that is hard for
one mask is hard for the other. Measurements keep the loss of each window, so differences can be paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pruning.core.result import DoneResult

from .kept_terms import kept_terms, terms_beside

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """The mean of first minus second (nats per token), its 95 % interval, and its standard error, over `windows`."""

    mean: float
    low: float
    high: float
    windows: int
    error: float


def paired(first: Losses, second: Losses) -> PairedDifference:
    """The mean difference over windows (windows,), with a Student interval. With one window, there is no error."""
    differences = np.asarray(first, float) - np.asarray(second, float)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return PairedDifference(mean, float("nan"), float("nan"), n, float("nan"))
    error = float(differences.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return PairedDifference(mean, mean - half, mean + half, n, error)


def window_losses(
    results: Path, result: DoneResult, metrics: Sequence[str], which: str = "pruned"
) -> Losses | None:
    """The losses of a cell's mask on the windows of all metrics; None if older versions did not keep them."""
    return joined([_losses(kept_terms(results, result, metric, which)) for metric in metrics])


def joined(parts: Sequence[Losses | None]) -> Losses | None:
    """The losses of several metrics, one after the other; None if some are not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and len(known) == len(parts) else None


def losses_of(measured: Path) -> Losses | None:
    """The losses of windows that were kept beside the file of a measurement; None if there are none."""
    return _losses(terms_beside(measured))


def _losses(terms: Mapping[str, Any] | None) -> Losses | None:
    return np.array(terms["losses"], float) if terms and "losses" in terms else None
