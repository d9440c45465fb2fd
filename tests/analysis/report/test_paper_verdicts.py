"""The verdicts on the paper's statements follow from the numbers of a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import Metric
from analysis.data.study import ItemAnswers
from analysis.figures.fig5_variance_shares import LOSS, MASKS
from analysis.report.study_data import FAILS, HOLDS, OPEN, judged
from analysis.report.summary import claims
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.mask_overlap import OverlapDifference
from analysis.stats.simulated import NoiseAlone

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"
NOT = float("nan")


def shares(value: float, low: float, high: float) -> Shares:
    """A symmetric ratio; the other ratio is far away, so that no verdict can be its doing."""
    ratio, note = IntervalEstimate(value, low, high), "" if low == low else "no interval: 3 draws"
    return Shares(pd.DataFrame(), {}, IntervalEstimate(0.01, 0.001, 0.02), ratio, 10, 9, note)


OVERLAPS = {
    ("algorithms", "margin"): OverlapDifference(0.2, 0.4, -0.3, -0.1, 6),
    ("algorithms", "perplexity"): OverlapDifference(0.7, 0.5, 0.1, 0.3, 6),
    ("objectives", None): OverlapDifference(0.1, 0.45, -0.5, -0.2, 6),
}


def study(overlaps: Any = None, **replaced: Any) -> Any:
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
            "protect_first": 0,
            "protect_last": 0,
            "loss": [0.1, 0.1, 0.1, 0.9, 2.0, 2.0, 2.0, 2.0],
            "dense_loss": [0.5] * 4 + [1.0] * 4,
            "pruned/acc/a": [0.50, 0.52, 0.51, 0.50, 0.50, 0.60, 0.55, 0.50],
            "pruned/acc/a/stderr": 0.001,
        }
    )
    drawn = [(n, 0, 0) for n in range(4)]
    gains = pd.DataFrame({"objective": "perplexity", "drawn": drawn, "low": [-0.1, 0.1, 0.2, 0.1],
                          "relative": [0.3, 0.35, 0.4, 0.3]})  # fmt: skip
    agreements = pd.DataFrame(
        {"statistic": "spearman", "masks": "all", "value": [-0.9, 0.3, np.nan], "q": [0.01, 0.5, np.nan]}
    )
    known = OVERLAPS if overlaps is None else overlaps
    of = {
        "shares": (
            {MASKS: shares(9, 2, 50), LOSS: shares(1, 0, 3), PPL: shares(9, 3, 80), ACC: shares(2, 0.5, 9)},
            0,
        ),
        "calibration_perplexity": shares(0.2, 0.1, 0.8),
        "overlap_difference": lambda first, _, objective=None: known.get((first, objective)),
        "left_out": "",
        "against_dense": pd.DataFrame(
            {
                "objective": np.repeat(["margin", "perplexity"], 4),
                "lower": [True, True, True, False] + [False] * 4,
                "worse": [False, False, False, None] + [True] * 4,
            },
            dtype=object,
        ),
        "noise_alone": NoiseAlone(1, 60),
        "answers": ItemAnswers(note="the answers to single items were not kept"),
        "cells": cells,
        "gains": gains,
        "agreements": agreements,
        "metrics": {"acc": Metric("acc", ("acc/a",))},
    }  # fmt: skip
    found = SimpleNamespace(**(of | replaced))
    found.judged = replaced.get("judged", found)
    return found


def verdicts(**replaced: Any) -> list[str]:
    return list(claims(study(**replaced)))


def verdict(start: str, **replaced: Any) -> str:
    (sentence,) = [text for text in verdicts(**replaced) if start in text]
    return sentence


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1.1, 2, HOLDS), (0.2, 0.9, FAILS), (0.9, 1.1, OPEN), (1.0, 2.0, OPEN)]
)
def test_an_interval_decides_only_if_it_is_on_one_side(low: float, high: float, expected: str) -> None:
    assert judged(low, high, 1.0) == expected


def test_calibration_is_larger_only_if_the_interval_of_the_symmetric_ratio_is_above_one() -> None:
    assert (
        "in masks (v3): holds here; calibration : search 9.00 (2.00 to 50.0), with their interaction"
        in verdict("in masks")
    )
    part = {MASKS: shares(9, 0.5, 50), LOSS: shares(1, 0, 3), PPL: shares(9, NOT, NOT), ACC: shares(9, 3, 20)}
    assert "in masks (v3): inconclusive" in verdict("in masks", shares=(part, 0))
    part[MASKS] = shares(9, NOT, NOT)
    assert verdict("in masks", shares=(part, 0)).endswith("inconclusive; no interval: 3 draws.")


def test_the_statement_on_calibration_perplexity_is_judged_on_calibration_perplexity() -> None:
    text = verdict("calibration perplexity (v3)")
    assert "does not hold here; calibration : search 0.20 (0.10 to 0.80)" in text, (
        "held-out perplexity would say: holds"
    )


def test_objective_search_and_draw_stand_beside_calibration_and_search() -> None:
    found = shares(9, 2, 50)
    more = Shares(found.sources, {}, found.ratio, found.total_ratio, 10, 9, "", IntervalEstimate(1.5, 0.8, 2),
                  IntervalEstimate(0.7, 0.1, 3))  # fmt: skip
    text = verdict("in masks", shares=({MASKS: more, ACC: shares(2, 0.5, 9)}, 0))
    assert "objective : search 1.50 (0.80 to 2.00); objective : draw 0.70 (0.10 to 3.00)" in text


def test_an_interval_that_contains_one_does_not_decide_comparable() -> None:
    assert "inconclusive; calibration : search 2.00 (0.50 to 9.00)" in verdict("comparably")


def test_accuracy_is_decided_only_if_noise_alone_rarely_decides() -> None:
    part = {MASKS: shares(9, 0.5, 50), ACC: shares(9, 3, 20)}
    assert "(v3): does not hold here; calibration : search 9.00" in verdict("comparably", shares=(part, 0))
    text = verdict("comparably", shares=(part, 0), noise_alone=NoiseAlone(4, 12))
    assert "(v3): inconclusive; calibration : search 9.00" in text
    assert "4 of 12 simulated studies would be decided; the answers to single items were not kept" in text


def test_searches_converge_if_they_are_more_alike_than_draws() -> None:
    text = verdict("converging")
    assert "(v3): inconclusive" in text, "one objective says so, another the opposite"
    assert "draws: margin 0.20 and 0.40 (difference \N{MINUS SIGN}0.20, \N{MINUS SIGN}0.30 to " in text
    different = verdict("different masks")
    assert (
        "(v1): holds here; corrected overlap 0.10 between objectives on the same samples, 0.45" in different
    )
    assert "without" not in different
    apart = study().cells.assign(calibration=np.repeat(["items", "text"], 4))
    left = "without margin and perplexity, which have no samples in common with another objective"
    assert left in verdict("different masks", cells=apart)
    assert "inconclusive" in verdict("converging", overlaps={})
    doubtful = OVERLAPS | {("algorithms", "margin"): OverlapDifference(0.3, 0.35, -0.2, 0.1, 6)}
    assert "holds for some objectives" in verdict("converging", overlaps=doubtful)
    unsure = {("objectives", None): OverlapDifference(0.1, 0.2, -0.3, 0.1, 6)}
    assert "(v1): inconclusive" in verdict("different masks", overlaps=unsure)


def test_verdicts_are_about_the_cells_that_do_not_hold_by_construction() -> None:
    other = study(shares=({MASKS: shares(0.2, 0.1, 0.5), ACC: shares(2, 0.5, 9)}, 0))
    said = verdicts(left_out="without margin (4 of 8 cells), for which one-shot is exact", judged=other)
    assert said[0] == "All verdicts are without margin (4 of 8 cells), for which one-shot is exact."
    assert "in masks (v3): does not hold here; calibration : search 0.20 (0.10 to 0.50)" in said[1]
    assert len(said) == 1 + len(verdicts())


def test_one_shot_is_compared_with_the_best_known_mask_on_the_same_samples() -> None:
    text = verdict("one-shot")
    assert "does not hold here" in text
    assert "perplexity 34 percent (26 to 41), clearly better in 3 of 4 problems; our threshold" in text
    gains = study().gains
    assert "holds here" in verdict("one-shot", gains=gains.assign(relative=[0.01, 0.02, 0.01, 0.02]))
    assert "inconclusive" in verdict("one-shot", gains=gains.assign(relative=[0.01, 0.3, 0.0, 0.1]))
    lowered = verdict("one-shot", gains=gains.assign(relative=[0.3, 0.4, NOT, 0.3]))
    assert "inconclusive; " in lowered
    assert "no share: pruning can lower this loss" in lowered


def test_points_between_searches_are_judged_only_if_noise_is_smaller() -> None:
    """Highest minus lowest is 2 points in one panel and 10 in the other; standard errors are 0.1 points, then 2."""
    text = verdict("percentage points")
    assert "inconclusive; highest minus lowest is 2.0 to 10.0 points in 2 panels, median 6.0; noise" in text
    assert "whatever the noise, it is between 1 and 3 in 1 and outside in 1; our reading: most" in text
    cells = study().cells
    one = verdict("percentage points", cells=cells[cells["objective"] == "margin"])
    assert "holds here; highest minus lowest is 2.0 to 2.0 points in 1 panel" in one
    other = verdict("percentage points", cells=cells[cells["objective"] == "perplexity"])
    assert "does not hold here; highest minus lowest is 10.0" in other
    noisy = verdict("percentage points", cells=cells.assign(**{"pruned/acc/a/stderr": 0.02}))
    assert "inconclusive; highest" in noisy
    assert "between 1 and 3 in 0 and outside in 0" in noisy
    assert "no accuracy was measured" in verdict("percentage points", metrics={})


def test_signs_of_correlations_count_only_if_they_are_significant() -> None:
    text = verdict("five of six")
    assert "holds here; 1 of 2 correlations are negative, 1 are significant; our level is 0.05" in text
    unsure = study().agreements.assign(q=0.5)
    assert "inconclusive" in verdict("five of six", agreements=unsure)
    both = study().agreements.assign(q=0.01)
    assert "inconclusive" in verdict("five of six", agreements=both)


def test_an_objective_that_prefers_pruned_models_measures_something_else() -> None:
    text = verdict("what pruning costs")
    assert "does not hold here" in text
    assert "margin 0, 3, 3 of 4; perplexity 4, 0, 0 of 4; a difference is clear" in text
    assert "our reading" in text
    doubtful = study().against_dense.assign(worse=[False, None, None, None] + [True] * 4)
    assert "holds for some objectives" in verdict("what pruning costs", against_dense=doubtful)
    unsure = doubtful.assign(worse=[False, None, None, None, True, True, None, None])
    assert "inconclusive" in verdict("what pruning costs", against_dense=unsure)


def test_a_ratio_without_an_upper_end_says_how_small_the_search_is() -> None:
    found = shares(NOT, 45, np.inf)
    parts = {"search": IntervalEstimate(0.0, 0.0, 0.004), "interaction": IntervalEstimate(0.1, 0.0, 0.02)}
    sources = pd.DataFrame({"source": ["draw (seed)"], "high": [0.07]})
    above = Shares(sources, parts, found.ratio, found.total_ratio, 10, 9, "",
                   IntervalEstimate(NOT, 0.0, np.inf), IntervalEstimate(NOT, 5.0, np.inf))  # fmt: skip
    text = verdict("in masks", shares=({MASKS: above, ACC: shares(2, 0.5, 9)}, 0))
    small = "(the search explains at most 0.4 percent, the interaction at most 2)"
    assert f"calibration : search above 45.0 {small}" in text
    assert f"objective : search not determined {small}" in text
    assert "objective : draw above 5.00 (the draw explains at most 7 percent)" in text
    never = Shares(sources, parts, found.ratio, IntervalEstimate(NOT, np.inf, np.inf), 10, 9)
    said = verdict("in masks", shares=({MASKS: never, ACC: above}, 0))
    assert f"calibration : search no ratio {small}" in said


def test_without_data_every_verdict_is_open_and_gives_the_reason() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            raise NothingToRead("nothing was measured.")

    texts = list(claims(Bare()))  # type: ignore[arg-type]
    assert len(texts) == len(verdicts())
    assert all(text.endswith(": inconclusive; nothing was measured.") for text in texts)
