"""Accuracies that are only noise: what is subtracted, and what a verdict needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats import components as simulation
from analysis.stats.components import Design, compressed, item_noise, noise_alone, of_values
from analysis.stats.grid import SETTING, hits, labels
from tests.helpers.known_shares import archived_design

ITEMS = 100


def cells() -> pd.DataFrame:
    """The design of the archived study, and about as many distinct masks.

    Under objective o0, each data set has one mask; under o1, each setting; under o2, each setting has two; under o3,
    every search finds another mask.
    """
    frame = archived_design().frame
    number = int(frame["algo"].nunique())
    algo, draw = frame["algo"].str[-1].astype(int), frame["draw"].astype(int)
    own = frame["objective"].map({"o0": 1, "o1": 1, "o2": 2, "o3": number})
    setting = pd.Series(labels(frame, ["model", "k", *SETTING])) - draw.where(frame["objective"] == "o0", 0)
    return frame.assign(
        dropped=[(int(s), 1000 + int(a) % int(n)) for s, a, n in zip(setting, algo, own, strict=True)]
    )


def answers(frame: pd.DataFrame, seed: int, better: Any = 0.0) -> dict[str, Any]:
    """Answers (cells, ITEMS) to two tasks; `better` (cells,) is added to each mask's chance of a right answer."""
    rng = np.random.default_rng(seed)
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    found = {}
    for task in ("acc/a", "acc/b"):
        easy = rng.uniform(0.2, 0.8, ITEMS)
        drawn = rng.random((mask.max() + 1, ITEMS))[mask]
        found[task] = (drawn < easy + np.reshape(better, (-1, 1))).astype(float)
    return found


def shares_of(design: Design, of: dict[str, Any], seed: int, subtract: bool = True) -> Any:
    y = 100 * np.mean([task.mean(axis=1) for task in of.values()], axis=0)
    items = item_noise(of) if subtract else None
    return design.shares([of_values(y[rows]) for rows in design.rows], 199, seed, items)


def test_the_noise_has_the_covariance_of_the_mean_accuracies() -> None:
    rng = np.random.default_rng(0)
    two = rng.integers(0, 2, (2, 40)).astype(float)
    three = rng.integers(0, 2, (2, 30)).astype(float)
    noise = item_noise({"acc/a": two, "acc/b": three})
    expected = sum(np.cov(x) / x.shape[1] for x in (two, three)) / 4 * 1e4
    np.testing.assert_allclose(noise @ noise.T, expected)


def test_fewer_columns_have_about_the_same_covariance() -> None:
    noise = np.random.default_rng(1).normal(size=(5, 1000))
    few = compressed(noise, 0)
    assert few.shape == (5, 64)
    np.testing.assert_allclose((few @ few.T).diagonal(), (noise @ noise.T).diagonal(), rtol=0.5)
    assert compressed(noise[:, :64], 0) is not None
    np.testing.assert_array_equal(compressed(noise[:, :64], 0), noise[:, :64])


def test_with_answers_noise_alone_decides_nothing() -> None:
    frame = cells()
    design = Design(frame)
    subtracted, kept = [], []
    for seed in range(40):
        of = answers(frame, seed)
        subtracted.append(shares_of(design, of, seed))
        kept.append(shares_of(design, of, seed, subtract=False))
    decided = [[s.total_ratio.low > 1 or s.total_ratio.high < 1 for s in each] for each in (subtracted, kept)]
    assert np.mean(decided[0]) <= 0.05
    assert np.mean(decided[1]) > 0.2, "this is what the subtraction is for"
    draw = [float(s.sources.set_index("source").loc["draw (seed)", "component"]) for s in subtracted]
    assert abs(np.mean(draw)) < 3 * np.std(draw, ddof=1) / np.sqrt(len(draw)), "unbiased"


def test_an_effect_is_still_found() -> None:
    frame = cells()
    objective = frame["objective"].map({"o0": -0.15, "o1": -0.05, "o2": 0.05, "o3": 0.15}).to_numpy()
    found = [shares_of(Design(frame), answers(frame, seed, objective), seed) for seed in range(5)]
    assert all(s.total_ratio.low > 1 for s in found)
    assert all(s.parts["calibration"].value > 0.6 for s in found)


def test_a_verdict_that_noise_reaches_too_often_is_recognised() -> None:
    frame = cells()
    without = noise_alone(frame)
    assert without.too_often
    assert without.studies < simulation.STUDIES, "the simulation ends when the answer is clear"


def test_with_answers_the_simulated_studies_are_decided_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "STUDIES", 20)
    objective = cells()["objective"].map({"o0": -0.15, "o1": -0.05, "o2": 0.05, "o3": 0.15}).to_numpy()
    found = noise_alone(cells(), answers(cells(), 3, objective))
    assert (found.studies, found.too_often) == (20, False), "also if the study itself has an effect"


def test_hits_are_those_of_the_evaluation() -> None:
    terms = {"loglikelihoods": [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]], "right": [0, 0, 0]}
    assert hits(terms) == pytest.approx([1.0, 0.0, 0.5])
    assert hits({"hits": [1.0, 0.0], "loglikelihoods": [[-1.0], [-2.0]]}) == pytest.approx([1.0, 0.0])
    assert hits({"losses": [2.0]}) is None
