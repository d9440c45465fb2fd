"""The oracle is never worse than a static set; what survives a second wording is nothing if answers are noise."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.routing.set_scores import (
    Floats,
    ItemScores,
    at,
    best_sets,
    best_static,
    difference,
    interval,
    oracle_gains,
    verdict,
)

CHOICES = 4


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


def test_the_oracle_is_at_least_as_good_as_every_set() -> None:
    scores = noise(0)
    found = at(scores.hits, best_sets(scores))
    assert (found >= scores.hits.max(axis=0) - 1e-12).all()
    assert found.mean() >= scores.hits.mean(axis=1).max()


def test_of_sets_that_answer_equally_well_the_oracle_takes_the_lowest_margin() -> None:
    means = np.zeros((2, 1, CHOICES))
    means[:, 0, 0] = [1.0, 3.0]
    assert best_sets(scores_of(means)).tolist() == [1]


def test_on_noise_the_oracle_gains_but_nothing_survives_a_second_wording() -> None:
    gain = oracle_gains({"a": noise(0), "b": noise(1)}, {"a": noise(2), "b": noise(3)})
    apparent, surviving = interval(gain["apparent"]), interval(gain["surviving"])
    assert apparent["low"] > 0.3, "with four sets, some set is right on most items"
    assert abs(surviving["value"]) < 0.03
    assert verdict(surviving, surviving).startswith("chance")


def test_fixed_preferences_survive_a_second_wording_but_not_random_labels() -> None:
    """Each set prefers the same answers in both wordings, whatever is right."""
    first = noise(0)
    gain = oracle_gains({"a": first}, {"a": first})
    surviving = interval(gain["surviving"])
    excess = interval({"a": gain["surviving"]["a"] - gain["chance"]["a"]})
    assert surviving["low"] > 0.3
    assert excess["low"] < 0 < excess["high"]
    assert verdict(surviving, excess).startswith("no more than chance")


def test_sets_that_know_different_prompts_gain_more_than_chance() -> None:
    gain = oracle_gains({"a": specialists(0)}, {"a": specialists(1)})
    surviving = interval(gain["surviving"])
    excess = interval({"a": gain["surviving"]["a"] - gain["chance"]["a"]})
    assert surviving["low"] > 0.2
    assert verdict(surviving, excess).startswith("more than chance")


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
