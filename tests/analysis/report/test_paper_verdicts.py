"""The paper's statements are judged by what a study holds, and by no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from analysis.data.errors import NothingToRead
from analysis.figures.variance_shares import LOSS, MASKS
from analysis.report.paper_verdicts import claims
from analysis.stats.estimates import Estimate, Shares

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"


def shares(value: float, low: float, high: float) -> Shares:
    ratio = Estimate(value, low, high)
    return Shares(pd.DataFrame(), {}, ratio, ratio, 10, 9, "" if low == low else "no interval: 3 draws")


def overlaps(**means: dict[str, float]) -> pd.DataFrame:
    """`algorithms={"perplexity": 0.7}`: two pairs about each mean."""
    rows = [
        (name, objective, value + step)
        for name, by in means.items()
        for objective, value in by.items()
        for step in (-0.1, 0.1)
    ]
    return pd.DataFrame(rows, columns=["comparison", "objective", "corrected"])


def study(**replaced: Any) -> Any:
    """What the statements read of a report's material."""
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


def said(**replaced: Any) -> list[str]:
    return list(claims(study(**replaced)))


def one(start: str, **replaced: Any) -> str:
    (found,) = [text for text in said(**replaced) if start in text]
    return found


def test_calibration_is_larger_only_where_the_interval_says_so() -> None:
    assert "in masks (v3) holds here: calibration to search 9.00 (2.00 to 50.0)" in one("in masks")
    assert "in perplexity (v3) does not hold here" in one("the same in perplexity".capitalize())
    part = {
        MASKS: shares(9, 0.5, 50),
        LOSS: shares(1, 0, 3),
        PPL: shares(9, np.nan, np.nan),
        ACC: shares(9, 3, 20),
    }
    assert "in masks (v3) is not told by this study" in one("in masks", shares=(part, 0))
    assert one("The same in perplexity", shares=(part, 0)).endswith("no interval: 3 draws.")
    assert "(v3) does not hold here: calibration to search 9.00" in one("comparably", shares=(part, 0))


def test_an_interval_that_holds_one_leaves_comparable_standing() -> None:
    assert "is not told by this study: calibration to search 2.00 (0.50 to 9.00)" in one("comparably")


def test_searches_are_alike_if_they_are_more_so_than_draws() -> None:
    text = one("converging")
    assert "holds for some objectives" in text
    assert "margin 0.20 between searches, 0.40 between draws" in text
    assert "(v1) holds here: corrected overlap 0.10 between objectives, 0.45" in one("different masks")
    nothing = overlaps(algorithms={"margin": 0.2}, draws={}, objectives={})
    assert "is not told by this study" in one("converging", overlaps=nothing)


def test_one_shot_is_held_against_the_best_known_mask() -> None:
    text = one("one-shot")
    assert "is not told by this study: within one standard error of the best known mask in 1 of 2" in text
    assert "margin 1 of 1 and perplexity 0 of 1" in text
    many = pd.concat([study().regrets.assign(regret_se=3.0)] * 5)
    assert "does not hold here" in one("one-shot", regrets=many)
    assert "holds here" in one("one-shot", regrets=many.assign(regret_se=0.0))


def test_points_between_searches_are_of_means_over_draws() -> None:
    text = one("percentage points")
    words = "highest less lowest in 1 of 2 panels between 1 and 3, the median is 6.0, the most 10.0"
    assert f"does not hold here: {words}" in text
    assert "no accuracy was measured" in one("percentage points", metrics={})


def test_signs_of_correlations_count_only_where_they_are_told_from_chance() -> None:
    text = one("five of six")
    assert "holds here: 1 of 2 panels are negative, 1 are told from chance" in text
    unsure = study().agreements.assign(q=0.5)
    assert "is not told by this study" in one("five of six", agreements=unsure)


def test_an_objective_that_prefers_pruned_models_measures_something_else() -> None:
    text = one("what pruning costs")
    assert "does not hold here" in text
    assert "margin 3 of 4 and perplexity 0 of 4" in text


def test_what_the_study_does_not_hold_is_said_in_its_place() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            raise NothingToRead("nothing was measured.")

    texts = list(claims(Bare()))  # type: ignore[arg-type]
    assert len(texts) == len(said())
    assert all(text.endswith("is not told by this study: nothing was measured.") for text in texts)
