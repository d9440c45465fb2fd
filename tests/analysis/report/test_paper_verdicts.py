"""The verdicts on the paper's statements follow from the numbers of a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.errors import NothingToRead
from analysis.figures.variance_shares import LOSS, MASKS
from analysis.report.paper_verdicts import claims
from analysis.stats.estimates import IntervalEstimate, Shares

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"


def shares(value: float, low: float, high: float) -> Shares:
    ratio = IntervalEstimate(value, low, high)
    return Shares(pd.DataFrame(), {}, ratio, ratio, 10, 9, "" if low == low else "no interval: 3 draws")


def overlaps(**means: dict[str, float]) -> pd.DataFrame:
    """Two pairs around each mean, given as `algorithms={"perplexity": 0.7}`."""
    rows = [
        (name, objective, value + step)
        for name, by in means.items()
        for objective, value in by.items()
        for step in (-0.1, 0.1)
    ]
    return pd.DataFrame(rows, columns=["comparison", "objective", "corrected"])


def study(**replaced: Any) -> Any:
    """A stand-in for StudyData with what the verdicts read."""
    cells = pd.DataFrame(
        {
            "model": "a",
            "k": 3,
            "objective": np.repeat(["margin", "perplexity"], 4),
            "calibration": "text",
            "samples": 8,
            "length": 32,
            "draw": 0,
            "algo": ["one_shot", "greedy", "beam", "genetic"] * 2,
            "dropped": [(1,), (2,), (3,), (4,)] * 2,
            "loss": [0.1, 0.1, 0.1, 0.9, 2.0, 2.0, 2.0, 2.0],
            "dense_loss": [0.5] * 4 + [1.0] * 4,
            "accuracy": [50.0, 52.0, 51.0, 50.0, 50.0, 60.0, 55.0, 50.0],
        }
    )
    regrets = cells.assign(regret_se=[0.5, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    agreements = pd.DataFrame(
        {"statistic": "spearman", "masks": "all", "value": [-0.9, 0.3, np.nan], "q": [0.01, 0.5, np.nan]}
    )
    of = {
        "shares": (
            {
                MASKS: shares(9, 2, 50),
                LOSS: shares(1, 0, 3),
                PPL: shares(0.2, 0.1, 0.8),
                ACC: shares(2, 0.5, 9),
            },
            0,
        ),
        "overlaps": overlaps(
            algorithms={"margin": 0.2, "perplexity": 0.7},
            draws={"margin": 0.4, "perplexity": 0.5},
            objectives={"all": 0.1},
        ),
        "cells": cells,
        "regrets": regrets,
        "agreements": agreements,
        "metrics": {"acc": SimpleNamespace(of=lambda frame: frame["accuracy"])},
    }
    return SimpleNamespace(**(of | replaced))


def verdicts(**replaced: Any) -> list[str]:
    return list(claims(study(**replaced)))


def verdict(start: str, **replaced: Any) -> str:
    (sentence,) = [text for text in verdicts(**replaced) if start in text]
    return sentence


def test_calibration_is_larger_only_if_the_interval_is_above_one() -> None:
    assert "in masks (v3): holds here; ratio of calibration to search 9.00 (2.00 to 50.0)" in verdict(
        "in masks"
    )
    assert "in perplexity (v3): does not hold here" in verdict("the same in perplexity".capitalize())
    part = {
        MASKS: shares(9, 0.5, 50),
        LOSS: shares(1, 0, 3),
        PPL: shares(9, np.nan, np.nan),
        ACC: shares(9, 3, 20),
    }
    assert "in masks (v3): not decided by this study" in verdict("in masks", shares=(part, 0))
    assert verdict("The same in perplexity", shares=(part, 0)).endswith("no interval: 3 draws.")
    assert "(v3): does not hold here; ratio of calibration to search 9.00" in verdict(
        "comparably", shares=(part, 0)
    )


def test_an_interval_that_contains_one_does_not_decide_comparable() -> None:
    text = verdict("comparably")
    assert "not decided by this study; ratio of calibration to search 2.00 (0.50 to 9.00)" in text


def test_searches_converge_if_they_are_more_alike_than_draws() -> None:
    text = verdict("converging")
    assert "holds for some objectives" in text
    assert "between searches and between draws: margin 0.20 and 0.40" in text
    assert "(v1): holds here; corrected overlap 0.10 between objectives, 0.45" in verdict("different masks")
    nothing = overlaps(algorithms={"margin": 0.2}, draws={}, objectives={})
    assert "not decided by this study" in verdict("converging", overlaps=nothing)


def test_one_shot_is_compared_with_the_best_known_mask() -> None:
    text = verdict("one-shot")
    words = "one-shot is within one standard error of the best known mask in 1 of 2"
    assert f"not decided by this study; {words}" in text
    assert "by objective: margin 1 of 1, perplexity 0 of 1" in text
    many = pd.concat([study().regrets.assign(regret_se=3.0)] * 5)
    assert "does not hold here" in verdict("one-shot", regrets=many)
    assert "holds here" in verdict("one-shot", regrets=many.assign(regret_se=0.0))


def test_points_between_searches_are_of_means_over_draws() -> None:
    text = verdict("percentage points")
    words = "highest minus lowest is between 1 and 3 in 1 of 2 panels; the median is 6.0, the maximum 10.0"
    assert f"does not hold here; {words}" in text
    assert "no accuracy was measured" in verdict("percentage points", metrics={})


def test_signs_of_correlations_count_only_if_they_are_significant() -> None:
    text = verdict("five of six")
    assert "holds here; 1 of 2 correlations are negative, 1 are significant" in text
    unsure = study().agreements.assign(q=0.5)
    assert "not decided by this study" in verdict("five of six", agreements=unsure)


def test_an_objective_that_prefers_pruned_models_measures_something_else() -> None:
    text = verdict("what pruning costs")
    assert "does not hold here" in text
    assert "margin 3 of 4, perplexity 0 of 4" in text


def test_without_data_every_verdict_is_open_and_gives_the_reason() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            raise NothingToRead("nothing was measured.")

    texts = list(claims(Bare()))  # type: ignore[arg-type]
    assert len(texts) == len(verdicts())
    assert all(text.endswith(": not decided by this study; nothing was measured.") for text in texts)
