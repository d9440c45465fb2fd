"""Ways to choose a set for a prompt, and how right each way answers every held-out item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pruning.routing.oracle import Scores, at, best_sets, best_static
from pruning.routing.scores import Floats, ItemScores, Numbers

DENSE = "dense"
# In the order in which tables show them: the name, and what it chooses.
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


@dataclass(frozen=True)
class Measured:
    """Scores of each task under the dense model (first) and then under each set; `own` is a task's set, from 0."""

    calibration: Scores
    heldout: Scores
    own: Mapping[str, int]

    @property
    def sets(self) -> int:
        """The number of sets."""
        return len(next(iter(self.heldout.values())).sums) - 1

    def of_sets(self, scores: Scores) -> dict[str, ItemScores]:
        """Scores under the sets, without the dense model."""
        return {task: one.take(range(1, 1 + self.sets)) for task, one in scores.items()}


def choices(measured: Measured, routed: Mapping[str, Numbers]) -> dict[str, dict[str, Numbers]]:
    """The set that each policy chooses for each item (items,), by policy and task; 0 is the dense model.

    `routed` are the router's choices, with sets counted from 0. `random` is left out, because it chooses all.
    """
    calibrated, held = measured.of_sets(measured.calibration), measured.of_sets(measured.heldout)
    static, hindsight = best_static(calibrated), best_static(held)
    found: dict[str, dict[str, Numbers]] = {name: {} for name in POLICIES if name != "random"}
    for task, scores in held.items():
        every = np.ones(scores.count, dtype=np.int64)
        found[DENSE][task] = 0 * every
        found["static"][task] = (1 + static) * every
        found["hindsight"][task] = (1 + hindsight) * every
        found["own"][task] = (1 + measured.own[task]) * every
        found["router"][task] = 1 + routed[task]
        found["likeliest"][task] = 1 + scores.loglikelihood.argmax(axis=0)
        found["oracle"][task] = 1 + best_sets(scores)
    return found


def values(
    measured: Measured, chosen: Mapping[str, Mapping[str, Numbers]], what: str
) -> dict[str, dict[str, Floats]]:
    """The accuracy ("hits") or the margin of every item (items,), by policy and task."""
    found: dict[str, dict[str, Floats]] = {name: {} for name in POLICIES}
    for task, scores in measured.heldout.items():
        table: Floats = getattr(scores, what)
        for name in POLICIES:
            every = name == "random"
            found[name][task] = table[1:].mean(axis=0) if every else at(table, chosen[name][task])
    return found


def counts(chosen: Mapping[str, Numbers], sets: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often a policy chose each set, by task; sets are counted from 1."""
    return {
        task: {name: int((of_task == number).sum()) for number, name in enumerate(sets, start=1)}
        for task, of_task in chosen.items()
    }
