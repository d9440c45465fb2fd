"""Scores of items, the ways to choose a set, and how much of the oracle's gain is more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.api.model import PrunableModel, load_model
from pruning.calibration.item_files import read_item
from pruning.calibration.items import items_of as rows_of
from pruning.calibration.samples import Samples
from pruning.core.mask import Mask
from pruning.evaluation.heldout import item_accuracy
from pruning.objective.margin import Margin
from pruning.routing.set_scores import (
    Crossed,
    Floats,
    ItemScores,
    best_sets,
    best_static,
    choices,
    difference,
    interval,
    oracle_gains,
    score_items,
    summary,
    values,
    verdict,
)
from pruning.runs.cell import forward_of
from tests.helpers.task_files import items_of

CHOICES, TASKS = 4, ("a", "b")


def scores_of(means: Floats) -> ItemScores:
    """Items whose choices have these means (sets, items, CHOICES); the first choice is right."""
    sets, items, _ = means.shape
    return ItemScores(
        means.reshape(sets, -1),
        np.ones(items * CHOICES, dtype=int),
        np.repeat(np.arange(items), CHOICES),
        np.tile(np.arange(CHOICES) == 0, items),
    )


def noise(seed: int, sets: int = 4, items: int = 1500) -> ItemScores:
    return scores_of(np.random.default_rng(seed).normal(size=(sets, items, CHOICES)))


def specialists(seed: int, items: int = 600) -> ItemScores:
    """Two sets; each knows every second item, and is noise on the others."""
    means = np.random.default_rng(seed).normal(size=(2, items, CHOICES))
    for number in range(2):
        means[number, number::2, 0] += 6
    return scores_of(means)


MASKS = [Mask(6), Mask(6, (1, 3)), Mask(6, (4,)), Mask(6, (1, 3))]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> PrunableModel:
    return load_model(model_folder, dtype="float32")


@pytest.fixture(scope="module")
def samples(tokenizer: Any) -> Samples:
    items = [read_item(one, "item") for one in items_of("animals", 9)]
    items += [read_item({"question": "Is it so?", "choices": ["yes", "no"], "answer": 1}, "item")]
    return rows_of(items, tokenizer, "items", 0)


def test_the_cross_table_equals_an_evaluation_of_each_mask(model: PrunableModel, samples: Samples) -> None:
    scores = score_items(forward_of(model.language_model), samples, MASKS)
    for number, mask in enumerate(MASKS):
        alone = forward_of(model.language_model)
        (found,) = Margin().bind(alone, samples)([mask])
        assert scores.margin[number].mean() == pytest.approx(found.loss, abs=1e-9)
        assert scores.margin[number] == pytest.approx(found.samples, abs=1e-9)
        measured = item_accuracy("acc/x", alone, samples, mask).metrics["acc/x"]
        assert scores.hits[number].mean() == pytest.approx(measured, abs=1e-12)
    assert (scores.sums[1] == scores.sums[3]).all(), "equal masks are scored once"


def test_ties_share_the_point_of_a_right_answer() -> None:
    scores = ItemScores(
        np.array([[-2.0, -1.0, -4.0, -1.0, -1.0]]),
        np.array([2, 1, 1, 1, 1]),
        np.array([0, 0, 0, 1, 1]),
        np.array([True, False, False, False, True]),
    )
    assert scores.hits.tolist() == [[0.5, 0.5]]
    assert scores.loglikelihood.tolist() == [[-1.0, -1.0]]
    assert (scores.target("margin") == -scores.margin).all()
    assert scores.margin.tolist() == [[pytest.approx((-1 - 4) / 2 + 1), 0.0]]


def test_random_labels_mark_one_choice_of_each_item() -> None:
    scores = noise(0, sets=1, items=3)
    labels = np.array([scores.random_labels(np.random.default_rng(seed)) for seed in range(200)])
    assert (labels.reshape(200, 3, CHOICES).sum(axis=2) == 1).all()
    assert labels.mean(axis=0) == pytest.approx(np.full(3 * CHOICES, 1 / CHOICES), abs=0.1)


def measured(sets: int, seed: int = 0) -> Crossed:
    """Two tasks of noise, under a dense model and some sets."""
    numbered = list(enumerate(TASKS))
    calibration = {task: noise(seed + i, sets + 1, 40) for i, task in numbered}
    heldout = {task: noise(seed + 10 + i, sets + 1, 60) for i, task in numbered}
    return Crossed(calibration, heldout, {task: min(i, sets - 1) for i, task in numbered})


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


def test_of_sets_that_answer_equally_well_the_oracle_takes_the_lowest_margin() -> None:
    means = np.zeros((2, 1, CHOICES))
    means[:, 0, 0] = [1.0, 3.0]
    assert best_sets(scores_of(means)).tolist() == [1]


@pytest.mark.parametrize(
    ("first", "second", "survives", "said"),
    [
        # With four sets of noise, some set is right on most items.
        ((noise(0), noise(1)), (noise(2), noise(3)), False, "chance"),
        # Each set prefers the same answers in both wordings, whatever is right.
        ((noise(0),), (noise(0),), True, "no "),
        ((specialists(0),), (specialists(1),), True, "more "),
    ],
    ids=["noise", "fixed preferences", "specialists"],
)
def test_only_sets_that_know_different_prompts_gain_more_than_chance(
    first: tuple[ItemScores, ...], second: tuple[ItemScores, ...], survives: bool, said: str
) -> None:
    gain = oracle_gains(*(dict(zip(TASKS, part, strict=False)) for part in (first, second)))
    surviving, apparent = interval(gain["surviving"]), interval(gain["apparent"])
    excess = interval({task: gain["surviving"][task] - gain["chance"][task] for task in gain["chance"]})
    assert apparent["low"] > 0.2
    assert (surviving["low"] > 0.2) == survives
    assert survives or abs(surviving["value"]) < 0.03
    assert verdict(surviving, excess).startswith(said)


def test_the_static_set_is_the_one_with_the_best_mean_over_tasks() -> None:
    good, poor = specialists(0), noise(5, sets=2, items=10)
    assert best_static({"a": good}) == int(good.hits.mean(axis=1).argmax())
    both = {"a": good, "b": poor}
    means = (good.hits.mean(axis=1) + poor.hits.mean(axis=1)) / 2
    assert best_static(both) == int(means.argmax()), "a task with few items counts as much"


def test_an_interval_covers_and_is_paired() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        drawn = {"a": rng.normal(1.0, 1.0, 60), "b": rng.normal(0.0, 1.0, 60)}
        found = interval(drawn, seed)
        covered += found["low"] <= 0.5 <= found["high"]
    assert 88 <= covered <= 100
    common = rng.normal(size=50)
    assert difference(common + 0.1, common)["error"] == pytest.approx(0.0, abs=1e-12)
    assert difference(np.ones(1), np.zeros(1)) == {"value": 1.0, "error": None}
