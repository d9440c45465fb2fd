"""The best static set, the oracle, and what of the oracle's gain is more than chance.

The oracle sees the answers. For each prompt it takes the set that answers best, so it gains over any one set even if
the sets differ by chance only. Two comparisons say how much of this is chance:

- The same items are asked in a second wording. The oracle chooses on one wording and is judged on the other, and the
  best static set is treated in the same way. If a set's answers to a prompt are noise, this surviving gain is about
  0, or below it: a set chosen by noise is no better than the average set.
- Answers that do not change with the wording can still be mere preferences, such as for long answers. So the
  surviving gain is computed again with labels drawn at random, with which no set knows anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pruning.routing.scores import Floats, ItemScores, Numbers

Scores = Mapping[str, ItemScores]  # by task
FIRST = 1e6  # how many nats of margin a right answer outweighs
DRAWS = 50  # random labels


def best_static(scores: Scores) -> int:
    """The set with the highest mean accuracy over tasks; of equal ones, that with the lowest margin."""
    hits = np.mean([of_task.hits.mean(axis=1) for of_task in scores.values()], axis=0)
    margin = np.mean([of_task.margin.mean(axis=1) for of_task in scores.values()], axis=0)
    return int(np.lexsort((margin, -hits))[0])


def best_sets(scores: ItemScores) -> Numbers:
    """For each item, the set that answers it best (items,): a right answer first, then the lowest margin."""
    return np.asarray((FIRST * scores.hits - scores.margin).argmax(axis=0))


def at(values: Floats, chosen: Numbers | int) -> Floats:
    """The values (items,) of the chosen sets, from values (sets, items)."""
    n = values.shape[1]
    return np.asarray(values[np.broadcast_to(chosen, n), np.arange(n)])


@dataclass(frozen=True)
class OracleGain:
    """Gains in accuracy of the oracle over the best static set, per item of each task.

    `apparent`: chosen and judged on one wording. `surviving`: chosen on one wording, judged on the other. `chance`:
    as `surviving`, with random labels; the mean of `DRAWS` draws.
    """

    apparent: dict[str, Floats]
    surviving: dict[str, Floats]
    chance: dict[str, Floats]


def oracle_gain(scores: Scores, reworded: Scores, seed: int = 0) -> OracleGain:
    """The gains of the oracle. Both wordings have the same items in the same order, and take both parts."""
    static, rng = best_static(scores), np.random.default_rng(seed)
    apparent = {task: at(one.hits, best_sets(one)) - at(one.hits, static) for task, one in scores.items()}
    draws = []
    for _ in range(DRAWS):
        labels = {task: one.random_labels(rng) for task, one in scores.items()}
        pair = [{task: one.labelled(labels[task]) for task, one in of.items()} for of in (scores, reworded)]
        draws.append(surviving_gain(*pair))
    chance = {task: np.mean([draw[task] for draw in draws], axis=0) for task in scores}
    return OracleGain(apparent, surviving_gain(scores, reworded), chance)


def surviving_gain(scores: Scores, reworded: Scores) -> dict[str, Floats]:
    """The gain (items,) of choosing on one wording and being judged on the other, by task."""
    static, other = best_static(scores), best_static(reworded)
    found = {}
    for task, first in scores.items():
        second = reworded[task]
        there = at(second.hits, best_sets(first)) - at(second.hits, static)
        back = at(first.hits, best_sets(second)) - at(first.hits, other)
        found[task] = (there + back) / 2
    return found
