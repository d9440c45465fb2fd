"""The highest minus the lowest mean accuracy of the searches of a panel, and what noise alone would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .coordinates import Matrix
from .frames import groups
from .grid import STRATUM, labels
from .item_noise import item_noise
from .search_means import compared

SIMULATED = 400
PANEL = [*STRATUM, "objective"]


@dataclass(frozen=True)
class Span:
    """One panel: its span in points, and the span that noise alone exceeds in 5 percent of cases."""

    span: float
    noise: float

    def between(self, low: float, high: float) -> bool | None:
        """Whether the true span is between `low` and `high` points; None if noise hides it.

        Noise can change a span by at most the span of the noise. So in 95 percent of cases, the true span differs
        from the measured one by at most `noise`.
        """
        least, most = self.span - self.noise, self.span + self.noise
        if most < low or least > high:
            return False
        return True if low <= least and most <= high else None


def spans(
    frame: pd.DataFrame,
    accuracy: NDArray[np.float64],
    error: float,
    answers: Mapping[str, Matrix],
    seed: int = 0,
) -> list[Span]:
    """The span of every panel (model, k, objective) with two searches or more. Accuracies (cells,) are in percent.

    The noise of the items comes from `answers` (each task: cells, items). If there are none, equal masks have equal
    noise, and that of distinct masks is independent with the standard error `error`, in points.
    """
    rng = np.random.default_rng(seed)
    noise = _noise(frame, error, answers, rng)
    table = frame.assign(accuracy=accuracy, row=np.arange(len(frame)))
    found = []
    for _, panel in groups(table, PANEL):
        kept, _ = compared(panel, ["accuracy"])
        if kept["algo"].nunique() < 2:
            continue
        means = kept.groupby("algo")["accuracy"].mean()
        algo = labels(kept, ["algo"])
        weights = np.eye(algo.max() + 1)[algo] / np.bincount(algo)[algo][:, None]
        alone = np.ptp(weights.T @ noise[kept["row"].to_numpy()], axis=0)
        found.append(Span(float(means.max() - means.min()), float(np.quantile(alone, 0.95))))
    return found


def _noise(
    frame: pd.DataFrame, error: float, answers: Mapping[str, Matrix], rng: np.random.Generator
) -> Matrix:
    """Simulated errors (cells, SIMULATED) of the accuracies, in points."""
    if answers:
        items = item_noise(answers)
        return np.asarray(items @ rng.normal(size=(items.shape[1], SIMULATED)))
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    return np.asarray(error * rng.normal(size=(mask.max() + 1, SIMULATED))[mask])
