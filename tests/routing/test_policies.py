"""Policies choose what they say, and with one set all of them choose it."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.routing.set_scores import POLICIES, Crossed, ItemScores, choices, summary, values
from tests.routing.test_oracle import noise

TASKS = ("a", "b")


def measured(sets: int, seed: int = 0) -> Crossed:
    """Two tasks of noise, under a dense model and some sets."""
    numbered = list(enumerate(TASKS))
    calibration = {task: noise(seed + i, sets + 1, 40) for i, task in numbered}
    heldout = {task: noise(seed + 10 + i, sets + 1, 60) for i, task in numbered}
    return Crossed(calibration, heldout, {task: min(i, sets - 1) for i, task in numbered})


def test_with_one_set_every_policy_equals_that_set() -> None:
    of = measured(1)
    routed = {task: np.zeros(60, dtype=np.int64) for task in TASKS}
    hits = values(of, choices(of, routed), "hits")
    for name in POLICIES:
        for task in TASKS:
            wanted = of.heldout[task].hits[0 if name == "dense" else 1]
            assert hits[name][task].tolist() == pytest.approx(wanted.tolist()), name


def test_each_policy_reads_the_scores_that_it_may_see() -> None:
    of = measured(2)
    routed = {"a": np.arange(60) % 2, "b": np.zeros(60, dtype=np.int64)}
    chosen = choices(of, routed)
    best = [np.mean([s.hits[1:].mean(axis=1) for s in part.values()], axis=0).argmax() for part in
            (of.calibration, of.heldout)]  # fmt: skip
    assert set(chosen["static"]["a"]) == set(chosen["static"]["b"]) == {1 + best[0]}
    assert set(chosen["hindsight"]["a"]) == {1 + best[1]}
    assert (set(chosen["own"]["a"]), set(chosen["own"]["b"])) == ({1}, {2})
    assert chosen["router"]["a"].tolist() == (1 + routed["a"]).tolist()
    likeliest = of.heldout["a"].loglikelihood[1:].argmax(axis=0)
    assert chosen["likeliest"]["a"].tolist() == (1 + likeliest).tolist()
    hits = values(of, chosen, "hits")
    assert hits["random"]["a"] == pytest.approx(of.heldout["a"].hits[1:].mean(axis=0))
    assert (hits["oracle"]["a"] == of.heldout["a"].hits[1:].max(axis=0)).all()


def test_gains_are_paired_with_the_static_set() -> None:
    of = measured(2)
    predicted = {task: scores.loglikelihood[1:] for task, scores in of.heldout.items()}
    found = summary(of, None, predicted, TASKS)
    assert found["policies"]["static"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    perfect, likeliest = found["policies"]["router"], found["policies"]["likeliest"]
    assert perfect == likeliest, "a router without error"
    assert found["router"]["explained"] == {"common": 1.0, "relative": 1.0}
    entry = found["cross"]["a"]["b"]
    scores: ItemScores = of.heldout["a"]
    assert entry["accuracy_to_dense"]["value"] == pytest.approx((scores.hits[2] - scores.hits[0]).mean())
    assert found["cross"]["a"]["a"]["accuracy_to_own"]["value"] == 0.0
    assert "oracle" not in found
    best = scores.loglikelihood[1:].argmax(axis=0)
    assert found["router"]["chosen"]["a"] == {"a": (best == 0).sum(), "b": (best == 1).sum()}
