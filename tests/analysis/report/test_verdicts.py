"""The verdicts on the paper's statements follow from the numbers of a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis.stats.simulated import NoiseAlone

from analysis.data.archive import NothingToRead
from analysis.data.load import Metric
from analysis.data.study import ItemAnswers
from analysis.figures.fig5_variance_shares import LOSS, MASKS
from analysis.report.verdicts import FAILS, HOLDS, JUDGES, OPEN, claims, judged
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.mask_overlap import OverlapDifference

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"
NOT = float("nan")
SOME = "holds for some objectives"
MINUS = "\N{MINUS SIGN}"


def shares(value: float, low: float, high: float, **more: Any) -> Shares:
    """A symmetric ratio; the other ratio is far away, so that no verdict can be its doing."""
    ratio, note = IntervalEstimate(value, low, high), "" if low == low else "no interval: 3 draws"
    known: dict[str, Any] = {"sources": pd.DataFrame(), "parts": {}} | more
    return Shares(
        ratio=IntervalEstimate(0.01, 0.001, 0.02), total_ratio=ratio, cells=10, draws=9, note=note, **known
    )


OVERLAPS = {
    ("algorithms", "margin"): OverlapDifference(0.2, 0.4, -0.3, -0.1, 6),
    ("algorithms", "perplexity"): OverlapDifference(0.7, 0.5, 0.1, 0.3, 6),
    ("objectives", None): OverlapDifference(0.1, 0.45, -0.5, -0.2, 6),
}
CELLS = pd.DataFrame(
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
DRAWN = [(n, 0, 0) for n in range(4)]
GAINS = pd.DataFrame(
    {
        "objective": "perplexity",
        "drawn": DRAWN,
        "low": [-0.1, 0.1, 0.2, 0.1],
        "relative": [0.3, 0.35, 0.4, 0.3],
    }
)
AGREEMENTS = pd.DataFrame(
    {"statistic": "spearman", "masks": "all", "value": [-0.9, 0.3, np.nan], "q": [0.01, 0.5, np.nan]}
)
AGAINST_DENSE = pd.DataFrame(
    {
        "objective": np.repeat(["margin", "perplexity"], 4),
        "lower": [True, True, True, False] + [False] * 4,
        "worse": [False, False, False, None] + [True] * 4,
    },
    dtype=object,
)
SHARES = {MASKS: shares(9, 2, 50), LOSS: shares(1, 0, 3), PPL: shares(9, 3, 80), ACC: shares(2, 0.5, 9)}


def study(overlaps: Any = OVERLAPS, masks: Any = None, accuracy: Any = None, **replaced: Any) -> Any:
    """A stand-in for StudyData with what the verdicts read."""
    of = SHARES | ({MASKS: masks} if masks else {}) | ({ACC: accuracy} if accuracy else {})
    known = {
        "shares": (of, 0),
        "calibration_perplexity": shares(0.2, 0.1, 0.8),
        "overlap_difference": lambda first, _, objective=None: overlaps.get((first, objective)),
        "left_out": "",
        "against_dense": AGAINST_DENSE,
        "noise_alone": NoiseAlone(1, 60),
        "answers": ItemAnswers(note="no answers were kept"),
        "cells": CELLS,
        "gains": GAINS,
        "agreements": AGREEMENTS,
        "metrics": {"acc": Metric("acc", ("acc/a",))},
    }
    found = SimpleNamespace(**(known | replaced))
    found.judged = replaced.get("judged", found)
    return found


def verdict(name: str, **replaced: Any) -> tuple[str, str]:
    """The verdict on a statement of JUDGES, and the numbers after it."""
    text = claims(study(**replaced))[list(JUDGES).index(name)]
    words = next(word for word in (FAILS, HOLDS, SOME, OPEN) if f": {word}; " in text)
    return words, text.partition(f": {words}; ")[2]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(1.1, 2, HOLDS), (0.2, 0.9, FAILS), (0.9, 1.1, OPEN), (1.0, 2.0, OPEN)]
)
def test_an_interval_decides_only_if_it_is_on_one_side(low: float, high: float, expected: str) -> None:
    assert judged(low, high, 1.0) == expected


def _cells(**columns: Any) -> pd.DataFrame:
    return CELLS.assign(**columns)


def _overlap(name: str, objective: str | None, *numbers: float) -> dict[Any, OverlapDifference]:
    return OVERLAPS | {(name, objective): OverlapDifference(*numbers, 6)}


OBJECTIVE = {
    "objective_ratio": IntervalEstimate(1.5, 0.8, 2),
    "objective_draw": IntervalEstimate(0.7, 0.1, 3),
}
MARGIN = CELLS[CELLS["objective"] == "margin"]
SURE = _cells()[CELLS["objective"] == "perplexity"]
DOUBTFUL = [False, None, None, None]


NOISY = {"accuracy": shares(9, 3, 20), "noise_alone": NoiseAlone(4, 12)}
UNSURE = {"overlaps": _overlap("objectives", None, 0.1, 0.2, -0.3, 0.1)}
MOSTLY = {"overlaps": _overlap("algorithms", "margin", 0.3, 0.35, -0.2, 0.1)}
APART = {"cells": _cells(calibration=np.repeat(["items", "text"], 4))}
WITHOUT = "without margin and perplexity, which have no samples in common with another objective"
BETWEEN = f"margin 0.20 and 0.40 (difference {MINUS}0.20, {MINUS}0.30 to {MINUS}0.10), perplexity"
SOME_WORSE = {"against_dense": AGAINST_DENSE.assign(worse=DOUBTFUL + [True] * 4)}
FEW_WORSE = {"against_dense": AGAINST_DENSE.assign(worse=[*DOUBTFUL, True, True, None, None])}
DRAW = "objective : search 1.50 (0.80 to 2.00); objective : draw 0.70 (0.10 to 3.00)"


def _relative(*values: float) -> dict[str, pd.DataFrame]:
    return {"gains": GAINS.assign(relative=values)}


# fmt: off
JUDGED = [
    ("masks", {}, HOLDS, "calibration : search 9.00 (2.00 to 50.0), with their interaction"),
    ("masks", {"masks": shares(9, 0.5, 50)}, OPEN, "calibration : search 9.00 (0.50 to 50.0)"),
    ("masks", {"masks": shares(9, NOT, NOT)}, OPEN, "no interval: 3 draws."),
    ("masks", {"masks": shares(9, 2, 50, **OBJECTIVE)}, HOLDS, DRAW),
    # Held-out perplexity would say: holds.
    ("calibration_perplexity", {}, FAILS, "calibration : search 0.20 (0.10 to 0.80)"),
    # An interval that contains 1 does not decide "comparable".
    ("accuracy", {}, OPEN, "calibration : search 2.00 (0.50 to 9.00)"),
    ("accuracy", {"accuracy": shares(9, 3, 20)}, FAILS, "1 of 60 simulated studies"),
    ("accuracy", NOISY, OPEN, "4 of 12 simulated studies would be decided; no answers were kept"),
    ("objectives", {}, HOLDS, "0.10 between objectives on the same samples, 0.45 between draws"),
    ("objectives", UNSURE, OPEN, f"(difference {MINUS}0.10"),
    ("objectives", APART, HOLDS, WITHOUT),
    # One objective says so, another the opposite.
    ("searches", {}, OPEN, BETWEEN),
    ("searches", {"overlaps": {}}, OPEN, "are needed"),
    ("searches", MOSTLY, SOME, "margin 0.30"),
    ("one_shot", {}, FAILS, "perplexity 34 percent (26 to 41), clearly better in 3 of 4 problems; our"),
    ("one_shot", _relative(0.01, 0.02, 0.01, 0.02), HOLDS, "perplexity 2 percent (1 to 2)"),
    ("one_shot", _relative(0.01, 0.3, 0.0, 0.1), OPEN, "perplexity 10 percent"),
    ("one_shot", _relative(0.3, 0.4, NOT, 0.3), OPEN, "no share"),
    # Highest minus lowest is 2 points in one panel and 10 in the other; standard errors are 0.1 points, then 2.
    ("points", {}, OPEN, "2.0 to 10.0 points in 2 panels, median 6.0; noise"),
    ("points", {}, OPEN, "between 1 and 3 in 1 and outside in 1"),
    ("points", {"cells": MARGIN}, HOLDS, "2.0 to 2.0 points in 1 panel"),
    ("points", {"cells": SURE}, FAILS, "10.0 to 10.0 points"),
    ("points", {"cells": _cells(**{"pruned/acc/a/stderr": 0.02})}, OPEN, "in 0 and outside in 0"),
    ("points", {"metrics": {}}, OPEN, "no accuracy was measured"),
    ("ranks", {}, HOLDS, "1 of 2 correlations are negative, 1 are significant; our level is 0.05"),
    ("ranks", {"agreements": AGREEMENTS.assign(q=0.5)}, OPEN, "0 are significant"),
    ("ranks", {"agreements": AGREEMENTS.assign(q=0.01)}, OPEN, "2 are significant"),
    ("damage", {}, FAILS, "margin 0, 3, 3 of 4; perplexity 4, 0, 0 of 4; a difference is clear"),
    ("damage", SOME_WORSE, SOME, "margin 0, 1"),
    ("damage", FEW_WORSE, OPEN, "perplexity 2, 0"),
]
# fmt: on


@pytest.mark.parametrize(("name", "replaced", "expected", "numbers"), JUDGED)
def test_a_statement_is_judged_by_its_numbers(
    name: str, replaced: dict[str, Any], expected: str, numbers: str
) -> None:
    found, words = verdict(name, **replaced)
    assert found == expected
    assert numbers in words


def test_verdicts_are_about_the_cells_that_do_not_hold_by_construction() -> None:
    said = claims(study(left_out="without margin", judged=study(masks=shares(0.2, 0.1, 0.5))))
    assert "without margin" in said[0]
    assert f"{FAILS}; calibration : search 0.20 (0.10 to 0.50)" in said[1]
    assert len(said) == 1 + len(JUDGES)


def test_a_ratio_without_an_upper_end_says_how_small_the_search_is() -> None:
    parts = {"search": IntervalEstimate(0.0, 0.0, 0.004), "interaction": IntervalEstimate(0.1, 0.0, 0.02)}
    sources = pd.DataFrame({"source": ["draw (seed)"], "high": [0.07]})
    objective = {"objective_ratio": IntervalEstimate(NOT, 0.0, np.inf)}
    objective["objective_draw"] = IntervalEstimate(NOT, 5.0, np.inf)
    _, text = verdict("masks", masks=shares(NOT, 45, np.inf, parts=parts, sources=sources, **objective))
    small = "(the search explains at most 0.4 percent, the interaction at most 2)"
    assert f"calibration : search above 45.0 {small}" in text
    assert f"objective : search not determined {small}" in text
    assert "objective : draw above 5.00 (the draw explains at most 7 percent)" in text
    _, said = verdict("masks", masks=shares(NOT, np.inf, np.inf, parts=parts, sources=sources))
    assert f"calibration : search no ratio {small}" in said


def test_without_data_every_verdict_is_open_and_gives_the_reason() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            raise NothingToRead("nothing was measured.")

    texts = claims(Bare())  # type: ignore[arg-type]
    assert len(texts) == len(JUDGES)
    assert all(text.endswith(f": {OPEN}; nothing was measured.") for text in texts)
