"""Would noise alone lead to the verdict? Studies are simulated in which all masks are equally accurate.

Each distinct mask gets an accuracy that is noise; equal masks get the same. Few distinct masks exist within a
setting, so noise alone makes settings differ more than searches. A verdict that such studies reach too often is no
verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .components import Design
from .coordinates import Matrix, of_values
from .grid import labels
from .item_noise import item_noise

MOST = 0.05  # a verdict that noise alone reaches in more than this share of studies is inconclusive
STUDIES = 60  # simulated studies; fewer if the answer is clear earlier
RESAMPLES = 199


@dataclass(frozen=True)
class NoiseAlone:
    """In how many of `studies` simulated studies the interval of the ratio does not contain 1."""

    decided: int
    studies: int

    @property
    def too_often(self) -> bool:
        """Whether noise alone reaches a verdict in more than 5 percent of studies."""
        return self.decided > MOST * self.studies


def noise_alone(
    frame: pd.DataFrame, answers: Mapping[str, Matrix] | None = None, seed: int = 0
) -> NoiseAlone:
    """How often the symmetric ratio of calibration to search would be decided if accuracies were only noise.

    `answers` maps each task to the answers (cells, items), from 0 to 1. Items are then drawn anew and their noise is
    subtracted, as in the study. Without answers, the accuracies of distinct masks are independent normal numbers, and
    no noise can be subtracted. The simulation ends early if it is certain that the verdict comes too often.
    """
    design, rng = Design(frame), np.random.default_rng(seed)
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    decided = 0
    for number in range(1, STUDIES + 1):
        noise = None if answers is None else _redrawn(answers, mask, rng)
        y = rng.normal(size=mask.max() + 1)[mask] if noise is None else _accuracy(noise)
        items = None if noise is None else item_noise(noise)
        found = design.shares([of_values(y[rows]) for rows in design.rows], RESAMPLES, number, items)
        decided += found.total_ratio.leaves_out(1)
        if stats.binomtest(decided, number).proportion_ci(0.98).low > MOST and decided >= 4:
            return NoiseAlone(decided, number)
    return NoiseAlone(decided, STUDIES)


def _redrawn(
    answers: Mapping[str, Matrix], mask: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Matrix]:
    """Answers (cells, items) to items drawn anew, of masks that all have the same true accuracy in a task."""
    first = np.unique(mask, return_index=True)[1]
    redrawn = {}
    for task, of_task in answers.items():
        distinct = of_task[first]
        alike = distinct - distinct.mean(axis=1, keepdims=True) + distinct.mean()
        n = alike.shape[1]
        redrawn[task] = alike[:, rng.integers(n, size=n)][mask]
    return redrawn


def _accuracy(answers: Mapping[str, Matrix]) -> NDArray[np.float64]:
    """The mean accuracy (cells,) over tasks, in percent."""
    return np.asarray(100 * np.mean([of_task.mean(axis=1) for of_task in answers.values()], axis=0))
