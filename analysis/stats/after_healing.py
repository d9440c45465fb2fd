"""Does the choice of the mask still matter after repair and healing? Statistics with bootstrap intervals.

For each state (pruned, repaired, healed on n tokens), over the masks that have it:

- the rank correlation (Spearman) of the held-out losses before and in this state,
- the spread: the standard deviation of the losses over masks, in nats, and its share of the spread before,
- the regret: how far the mask that was best before is above the best one in this state, in nats.

Masks and windows are both a sample. A resample draws masks and windows with replacement, the same windows for all
masks and states, because a window that is hard for one mask is hard for the others. The interval is from the 2.5 to
the 97.5 percentile of resamples (Efron and Tibshirani 1993, section 13.3). With a dozen masks it is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from .estimates import IntervalEstimate
from .healings import PRUNED, HealedMask, State

RESAMPLES = 2000
FEWEST = 4  # masks; fewer give no correlation
NEAR = 2.0  # masks near the best one cost at most this many times its loss

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class StateStatistics:
    """What a state does to the differences between masks; `masks` have it."""

    state: State
    masks: int
    correlation: IntervalEstimate
    spread_before: IntervalEstimate
    spread: IntervalEstimate
    share: IntervalEstimate
    regret: IntervalEstimate


def statistics(masks: Sequence[HealedMask], resamples: int = RESAMPLES) -> list[StateStatistics]:
    """The statistics of each state but the first that at least four masks have."""
    states = sorted({state for one in masks for state in one.states if state != PRUNED})
    return [_of_state(masks, state, resamples) for state in states if _count(masks, state) >= FEWEST]


def near_best(masks: Sequence[HealedMask]) -> list[HealedMask]:
    """The masks that cost at most twice the loss that the cheapest mask costs, before any repair or healing."""
    least = min(lost(one, PRUNED) for one in masks)
    most = least + (NEAR - 1) * abs(least)  # a mask can be better than the dense model
    return [one for one in masks if lost(one, PRUNED) <= most]


def lost(one: HealedMask, state: State) -> float:
    """The held-out loss of a state above that of the dense model, in nats per token."""
    assert one.dense is not None
    return float((one.losses(state) - one.dense).mean())


def regained(one: HealedMask, state: State, resamples: int = RESAMPLES) -> IntervalEstimate:
    """The share of the loss that the mask had cost which is regained in a state, with an interval over windows."""
    assert one.dense is not None
    rows = np.stack([one.losses(PRUNED), one.losses(state), one.dense])

    def share(means: Matrix) -> Any:
        return (means[0] - means[1]) / (means[0] - means[2])

    windows = np.random.default_rng(0).integers(0, rows.shape[1], (resamples, rows.shape[1]))
    drawn = share(rows[:, windows].mean(-1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return IntervalEstimate(float(share(rows.mean(-1))), float(low), float(high))


def spearman(first: Matrix, second: Matrix) -> float:
    """The correlation of the ranks; equal values have the mean of their ranks. NaN if all values of one are equal."""
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def _count(masks: Sequence[HealedMask], state: State) -> int:
    return sum(state in one.states for one in masks)


def _of_state(masks: Sequence[HealedMask], state: State, resamples: int) -> StateStatistics:
    having = [one for one in masks if state in one.states]
    before, after = (np.stack([one.losses(which) for one in having]) for which in (PRUNED, state))
    rng = np.random.default_rng(0)
    draws = [
        (rng.integers(0, len(having), len(having)), rng.integers(0, before.shape[1], before.shape[1]))
        for _ in range(resamples)
    ]

    def interval(statistic: Callable[[Matrix, Matrix], float]) -> IntervalEstimate:
        drawn = [
            statistic(before[rows][:, windows].mean(1), after[rows][:, windows].mean(1))
            for rows, windows in draws
        ]
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return IntervalEstimate(statistic(before.mean(1), after.mean(1)), float(low), float(high))

    return StateStatistics(
        state,
        len(having),
        interval(spearman),
        interval(lambda first, _: float(first.std(ddof=1))),
        interval(lambda _, second: float(second.std(ddof=1))),
        interval(lambda first, second: _ratio(float(second.std(ddof=1)), float(first.std(ddof=1)))),
        interval(lambda first, second: float(second[first.argmin()] - second.min())),
    )


def _ratio(value: float, whole: float) -> float:
    return value / whole if whole > 0 else float("nan")
