"""The verdicts on the paper's statements follow from the numbers of a study."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from analysis.data.archive import NothingToRead
from analysis.figures.fig5_variance_shares import LOSS, MASKS
from analysis.report.verdicts import FAILS, HOLDS, JUDGES, OPEN, claims
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.estimands import OBJECTIVE, SEARCH, Change
from analysis.stats.means import DrawMean

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"
NOT = float("nan")
SOME = "holds for some objectives"


def shares(value: float, low: float, high: float, **more: Any) -> Shares:
    ratio, note = IntervalEstimate(value, low, high), "" if low == low else "no interval: 3 draws"
    known: dict[str, Any] = {"sources": pd.DataFrame(), "parts": {}} | more
    return Shares(total_ratio=ratio, note=note, **known)


def change(objective: str, low: float, high: float, factor: str = SEARCH) -> Change:
    """Blocks that change; chance would change 2."""
    mean = DrawMean((low + high) / 2, 0.1, low, high, 6)
    return Change("a", 3, factor, (objective,), (), mean, 2.0, 3.0, (), mean)


CHANGES = [change("margin", 0.5, 1.5), change("perplexity", 0.1, 0.9), change("margin", 2.1, 2.9, OBJECTIVE)]
GAINS = pd.DataFrame(
    {
        "objective": "perplexity",
        "draw": range(4),
        **dict.fromkeys(("calibration", "samples", "length"), 1),
        "low": [-0.1, 0.1, 0.2, 0.1],
        "relative": [0.3, 0.35, 0.4, 0.3],
    }
)
SHARES = {MASKS: shares(9, 2, 50), LOSS: shares(1, 0, 3), PPL: shares(9, 3, 80), ACC: shares(2, 0.5, 9)}


def study(masks: Any = None, accuracy: Any = None, **replaced: Any) -> Any:
    """A stand-in for StudyData with what the verdicts read."""
    of = SHARES | ({MASKS: masks} if masks else {}) | ({ACC: accuracy} if accuracy else {})
    known = {
        "shares": of,
        "calibration_perplexity": shares(0.2, 0.1, 0.8),
        "changes": CHANGES,
        "left_out": "",
        "gains": GAINS,
    }
    found = SimpleNamespace(**(known | replaced))
    found.judged = replaced.get("judged", found)
    return found


def _relative(*values: float) -> dict[str, pd.DataFrame]:
    return {"gains": GAINS.assign(relative=values)}


OBJ = {"objective_ratio": IntervalEstimate(1.5, 0.8, 2), "objective": "objective and data"}
UNSURE = {"changes": [change("margin", 1.5, 2.5), change("perplexity", 0.1, 0.9)]}
WORSE = {"changes": [change("margin", 2.1, 2.9), change("perplexity", 0.1, 0.9)]}

# fmt: off
JUDGED = [
    ("masks", {}, HOLDS, "9.00 (2.00 to 50.0)"),
    ("masks", {"masks": shares(9, 0.5, 50)}, OPEN, "9.00 (0.50 to 50.0)"),
    ("masks", {"masks": shares(9, NOT, NOT)}, OPEN, "3 draws"),
    ("masks", {"masks": shares(9, 2, 50, **OBJ)}, HOLDS, "objective and data : search 1.50 (0.80 to 2.00)"),
    # Held-out perplexity would say: holds.
    ("calibration_perplexity", {}, FAILS, "0.20 (0.10 to 0.80)"),
    # An interval that contains 1 does not decide "comparable".
    ("accuracy", {}, OPEN, "2.00 (0.50 to 9.00)"),
    ("accuracy", {"accuracy": shares(9, 3, 20)}, FAILS, "9.00 (3.00 to 20.0)"),
    ("searches", {}, HOLDS, "fewer blocks than chance in 2, clearly more in 0"),
    ("searches", UNSURE, SOME, "in 1, clearly more in 0, and it is open in 1"),
    ("searches", WORSE, OPEN, "in 1, clearly more in 1"),
    ("searches", {"changes": []}, OPEN, "two searches"),
    ("one_shot", {}, FAILS, "34 percent (26 to 41), clearly better in 3 of 4"),
    ("one_shot", _relative(0.01, 0.02, 0.01, 0.02), HOLDS, "2 percent (1 to 2)"),
    ("one_shot", _relative(0.01, 0.3, 0.0, 0.1), OPEN, "10 percent"),
    ("one_shot", _relative(0.3, 0.4, NOT, 0.3), OPEN, "no share"),
]
# fmt: on


@pytest.mark.parametrize(("name", "replaced", "expected", "numbers"), JUDGED)
def test_a_statement_is_judged_by_its_numbers(
    name: str, replaced: dict[str, Any], expected: str, numbers: str
) -> None:
    text = claims(study(**replaced))[list(JUDGES).index(name)]
    assert f": {expected}; " in text
    assert numbers in text


def test_verdicts_are_about_the_cells_that_do_not_hold_by_construction() -> None:
    said = claims(study(left_out="without margin", judged=study(masks=shares(0.2, 0.1, 0.5))))
    assert "without margin" in said[0]
    assert f"{FAILS}; calibration : search 0.20 (0.10 to 0.50)" in said[1]
    assert len(said) == 1 + len(JUDGES)


def test_without_data_every_verdict_is_open_and_gives_the_reason() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            raise NothingToRead("nothing was measured.")

    texts = claims(Bare())  # type: ignore[arg-type]
    assert len(texts) == len(JUDGES)
    assert all(text.endswith(f": {OPEN}; nothing was measured.") for text in texts)
