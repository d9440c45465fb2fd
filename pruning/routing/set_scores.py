"""The log-likelihoods of items' choices under several sets, and the results of a study of tasks.

This module has, in this order: the scores of items, means with intervals, policies (ways to choose a set for
a prompt), the oracle's gain, and the summary of a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.calibration.samples import Samples
from pruning.core.mask import Mask

if TYPE_CHECKING:
    from pruning.engine.forward import Forward


Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ItemScores:
    """The log-likelihoods `sums` in nats, of shape (sets, rows). A row is one choice; an item's choices are adjacent.

    For each row, `tokens` has the number of tokens, `item` the index of its item, `right` whether it is right.
    """

    sums: Floats
    tokens: Numbers
    item: Numbers
    right: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self._starts)

    @cached_property
    def means(self) -> Floats:
        """The mean log-likelihood per token of each choice, of shape (sets, rows)."""
        return np.asarray(self.sums / self.tokens)

    @cached_property
    def loglikelihood(self) -> Floats:
        """The mean log-likelihood per token of the right answers, of shape (sets, items)."""
        return self.means[:, self.right]

    @cached_property
    def hits(self) -> Floats:
        """1/n if the right answer is among the n choices with the highest mean, else 0; of shape (sets, items)."""
        highest = np.maximum.reduceat(self.means, self._starts, axis=1)
        sharing = np.add.reduceat((self.means == highest[:, self.item]).astype(float), self._starts, axis=1)
        return np.asarray((self.loglikelihood == highest) / sharing)

    @cached_property
    def margin(self) -> Floats:
        """The terms of the objective `margin`, of shape (sets, items); lower is better."""
        wrong = np.add.reduceat(self.means, self._starts, axis=1) - self.loglikelihood
        return np.asarray(wrong / (self._choices - 1) - self.loglikelihood)

    def target(self, name: str) -> Floats:
        """What the router predicts (higher is better): `loglikelihood` or minus `margin`, of shape (sets, items)."""
        return self.loglikelihood if name == "loglikelihood" else -self.margin

    def random_labels(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Random labels, one per row: for each item, one choice is drawn uniformly and marked as right."""
        right = np.zeros(len(self.item), dtype=bool)
        right[self._starts + rng.integers(0, self._choices)] = True
        return right

    @cached_property
    def _starts(self) -> Numbers:
        return np.flatnonzero(np.diff(self.item, prepend=-1))

    @cached_property
    def _choices(self) -> Numbers:
        """The number of choices of each item."""
        return np.diff(np.append(self._starts, len(self.item)))


Scores = Mapping[str, ItemScores]  # by task


def score_items(forward: Forward, samples: Samples, masks: Sequence[Mask]) -> ItemScores:
    """The scores of all items under all masks. All masks must be over the same kind of units."""
    distinct = list(dict.fromkeys(masks))
    found = {mask: values for mask, values, _ in forward.loglikelihoods(samples.rows, distinct)}
    return ItemScores(
        np.array([found[mask] for mask in masks]),
        np.array([row.span[1] - row.span[0] for row in samples.rows]),
        np.repeat(np.arange(samples.count), [len(unit) for unit in samples.units]),
        np.array([bool(row.right) for row in samples.rows]),
    )


# Means over tasks with intervals. Items are resampled within each task; all policies use the same resamples.

RESAMPLES = 4000
LEVEL = 0.95


Interval = Mapping[str, float]  # `value`, a mean over tasks, and its 95 percent interval, `low` to `high`


def interval(values: Mapping[str, Floats], seed: int = 0) -> Interval:
    """The mean over tasks of the means over items, with its interval; `values` maps tasks to values per item.

    The interval is a percentile bootstrap over items within tasks. If the values are differences of two
    policies on the same items, the interval is paired.
    """
    rng = np.random.default_rng(seed)
    resampled = [of[rng.integers(0, len(of), (RESAMPLES, len(of)))].mean(axis=1) for of in values.values()]
    low, high = np.quantile(np.mean(resampled, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": mean_over_tasks(values), "low": float(low), "high": float(high)}


def mean_over_tasks(values: Mapping[str, Floats]) -> float:
    """The mean over tasks of the means over items: tasks count equally."""
    return float(np.mean([of_task.mean() for of_task in values.values()]))


def difference(first: Floats, second: Floats) -> dict[str, float | None]:
    """The mean of `first - second` over the items of one task, and its standard error (None if there is one item)."""
    gaps = first - second
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None
    return {"value": float(gaps.mean()), "error": error}


# Policies, each of which chooses a set for a prompt, and how well they answer the held-out items.

DENSE = "dense"
# The name of each policy and what it chooses, in the order of the tables.
POLICIES = {
    DENSE: "no set: the whole model",
    "static": "the one set that is best on the calibration items",
    "hindsight": "the one set that is best on the held-out items",
    "own": "the set of the prompt's task, which must be known",
    "random": "each set with the same probability",
    "router": "the set that the router predicts best",
    "likeliest": "the set under which the right answer is likeliest: a router without error",
    "oracle": "for each prompt, the set that answers best",
}
FIRST = 1e6  # how many nats of margin a right answer outweighs


@dataclass(frozen=True)
class Crossed:
    """Each task's scores under the dense model and then under each set; `own` maps each task to its set's index."""

    calibration: Scores
    heldout: Scores
    own: Mapping[str, int]


def of_sets(scores: Scores) -> dict[str, ItemScores]:
    """The scores under the sets, without those under the dense model."""
    return {task: replace(one, sums=one.sums[1:]) for task, one in scores.items()}


def choices(crossed: Crossed, routed: Mapping[str, Numbers]) -> dict[str, dict[str, Numbers]]:
    """By policy and task, the number of the set that is chosen for each item; 0 is the dense model.

    `routed` has the router's choices; in it, 0 is the first set. The policy `random`, a mean over sets, has no entry.
    """
    held = of_sets(crossed.heldout)
    static, hindsight = best_static(of_sets(crossed.calibration)), best_static(held)
    found: dict[str, dict[str, Numbers]] = {name: {} for name in POLICIES if name != "random"}
    for task, scores in held.items():
        every = np.ones(scores.count, dtype=np.int64)
        found[DENSE][task] = 0 * every
        found["static"][task] = (1 + static) * every
        found["hindsight"][task] = (1 + hindsight) * every
        found["own"][task] = (1 + crossed.own[task]) * every
        found["router"][task] = 1 + routed[task]
        found["likeliest"][task] = 1 + scores.loglikelihood.argmax(axis=0)
        found["oracle"][task] = 1 + best_sets(scores)
    return found


def values(
    crossed: Crossed, chosen: Mapping[str, Mapping[str, Numbers]], what: str
) -> dict[str, dict[str, Floats]]:
    """By policy and task, the accuracy (`what` is "hits") or the margin of each item."""
    tables: dict[str, Floats] = {task: getattr(scores, what) for task, scores in crossed.heldout.items()}
    return {
        name: {
            task: table[1:].mean(axis=0) if name == "random" else at(table, chosen[name][task])
            for task, table in tables.items()
        }
        for name in POLICIES
    }


def best_static(scores: Scores) -> int:
    """The set with the highest mean accuracy over tasks; of sets with equal accuracy, the set of lowest margin."""
    hits = np.mean([of_task.hits.mean(axis=1) for of_task in scores.values()], axis=0)
    margin = np.mean([of_task.margin.mean(axis=1) for of_task in scores.values()], axis=0)
    return int(np.lexsort((margin, -hits))[0])


def best_sets(scores: ItemScores) -> Numbers:
    """For each item, the set with the highest accuracy; of sets with equal accuracy, the set of lowest margin."""
    return np.asarray((FIRST * scores.hits - scores.margin).argmax(axis=0))


def routes(predicted: Floats) -> Numbers:
    """For each prompt, the set with the highest prediction; `predicted` has the shape (sets, prompts)."""
    return np.asarray(predicted.argmax(axis=0))


def at(values: Floats, chosen: Numbers | int) -> Floats:
    """For each item, the value under the set chosen for it; `values` has the shape (sets, items)."""
    n = values.shape[1]
    return np.asarray(values[np.broadcast_to(chosen, n), np.arange(n)])


# How much of the oracle's gain is more than chance. The oracle sees the answers, so it beats any single set
# even if the sets differ only by chance. Two comparisons show how much of its gain is chance:
#
# - The same items are asked in a second wording. The oracle's sets and the best static set are chosen on one
#   wording and judged on the other. The oracle's remaining gain is the surviving gain. If a set's answers are
#   noise, this gain is about 0 or below, because a set chosen by noise is no better than the average set.
# - Answers that do not change with the wording can still be mere preferences, such as for long answers. So
#   the surviving gain is computed again with random labels, which no set can predict.

DRAWS = 50  # the number of draws of random labels


def oracle_gains(scores: Scores, reworded: Scores, seed: int = 0) -> dict[str, dict[str, Floats]]:
    """The oracle's gains in accuracy over the best static set, for each item of each task.

    `apparent`: sets are chosen, and the gain is measured, on one wording. `surviving`: sets are chosen on one
    wording, and the gain is measured on the other. `chance`: `surviving` with random labels, as a mean of `DRAWS`
    draws. `scores` and `reworded` have the same items in the same order, in two wordings.
    """
    static, rng = best_static(scores), np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        labels = {task: one.random_labels(rng) for task, one in scores.items()}
        pair = [{t: replace(one, right=labels[t]) for t, one in of.items()} for of in (scores, reworded)]
        draws.append(surviving_gain(*pair))
    return {
        "apparent": {t: at(one.hits, best_sets(one)) - at(one.hits, static) for t, one in scores.items()},
        "surviving": surviving_gain(scores, reworded),
        "chance": {task: np.mean([draw[task] for draw in draws], axis=0) for task in scores},
    }


def surviving_gain(scores: Scores, reworded: Scores) -> dict[str, Floats]:
    """By task, each item's gain on one wording from sets chosen on the other wording; the mean of both directions."""
    static, other = best_static(scores), best_static(reworded)
    found = {}
    for task, first in scores.items():
        second = reworded[task]
        there = at(second.hits, best_sets(first)) - at(second.hits, static)
        back = at(first.hits, best_sets(second)) - at(first.hits, other)
        found[task] = (there + back) / 2
    return found


def verdict(surviving: Interval, excess: Interval) -> str:
    """What the oracle's gain says about the sets, in words."""
    if surviving["low"] <= 0:
        return "chance, as far as these items tell: no gain survives a second wording"
    if excess["low"] <= 0:
        return "no more than chance: with random labels, as much survives a second wording"
    return "more than chance: more survives a second wording than with random labels"


def summary(
    crossed: Crossed,
    reworded: Scores | None,
    predicted: Mapping[str, Floats],
    sets: Sequence[str],
    target: str = "loglikelihood",
) -> dict[str, Any]:
    """The numbers of a study. Its `cross` maps each task to the results under the dense model and under each set.

    `predicted` maps each task to the router's predictions of `target` for held-out items, of shape (sets, items).
    The oracle's `excess` is its `surviving` gain minus its `chance` gain (see `oracle_gains`).
    """
    chosen = choices(crossed, {task: routes(of_task) for task, of_task in predicted.items()})
    first = next(iter(crossed.heldout))
    hits, margins = values(crossed, chosen, "hits"), values(crossed, chosen, "margin")
    static = hits["static"]
    true = [crossed.heldout[task].target(target)[1:] for task in predicted]
    found: dict[str, Any] = {
        "cross": {
            task: _cross(scores, 1 + crossed.own[task], sets) for task, scores in crossed.heldout.items()
        },
        "static": sets[int(chosen["static"][first][0]) - 1],
        "hindsight": sets[int(chosen["hindsight"][first][0]) - 1],
        "policies": {
            name: {
                "accuracy": interval(hits[name]),
                "gain": interval({task: of_task - static[task] for task, of_task in hits[name].items()}),
                "margin": mean_over_tasks(margins[name]),
            }
            for name in POLICIES
        },
        "router": {
            "explained": explained(np.hstack(list(predicted.values())), np.hstack(true)),
            "chosen": {
                task: {name: int((of_task == number).sum()) for number, name in enumerate(sets, start=1)}
                for task, of_task in chosen["router"].items()
            },
        },
    }
    if reworded is not None:
        gains = oracle_gains(of_sets(crossed.heldout), of_sets(reworded))
        surviving, chance = gains["surviving"], gains["chance"]
        oracle = {name: interval(gain) for name, gain in gains.items()}
        oracle["excess"] = interval({task: of_task - chance[task] for task, of_task in surviving.items()})
        found["oracle"] = {**oracle, "verdict": verdict(oracle["surviving"], oracle["excess"])}
    return found


def _cross(scores: ItemScores, own: int, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A task's results on held-out items under the dense model and each set, with paired differences."""
    return {
        name: {
            "accuracy": float(scores.hits[number].mean()),
            "margin": float(scores.margin[number].mean()),
            "accuracy_to_dense": difference(scores.hits[number], scores.hits[0]),
            "accuracy_to_own": difference(scores.hits[number], scores.hits[own]),
            "margin_to_own": difference(scores.margin[number], scores.margin[own]),
        }
        for number, name in enumerate([DENSE, *sets])
    }


def explained(predicted: Floats, true: Floats) -> dict[str, float]:
    """The shares `common` and `relative` of the variance that predictions of shape (sets, prompts) explain.

    `common` is for the mean over sets; `relative` is for the differences from this mean, which decide the route.
    If a share is below 0, the mean over prompts would predict better than the router.
    """
    parts = {"common": (predicted.mean(0), true.mean(0))}
    parts["relative"] = (predicted - predicted.mean(0), true - true.mean(0))
    return {name: _share(*part) for name, part in parts.items()}


def _share(predicted: Floats, true: Floats) -> float:
    spread = float(((true - true.mean(axis=-1, keepdims=True)) ** 2).sum())
    return 0.0 if spread == 0 else 1 - float(((true - predicted) ** 2).sum()) / spread
