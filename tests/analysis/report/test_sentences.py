"""The report's sentences and verdicts: texts are in golden files, and numbers follow from the results."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import load
from analysis.data.study import AskedStudy
from analysis.figures.fig5_variance_shares import LOSS, MASKS
from analysis.report import page, summary, verdicts
from analysis.report.study_data import StudyData, listed, percents, reasons, say, with_interval
from analysis.report.verdicts import FAILS, HOLDS, JUDGES, OPEN, claims
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.estimands import DRAWN, OBJECTIVE, SEARCH, Change
from analysis.stats.grid import compared
from analysis.stats.means import DrawMean
from tests.helpers.analysis_grid import ONE, SMALL, SUBLAYERS, write

GOLDEN = Path(__file__).parent / "golden"
NOT = float("nan")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write(folder, SMALL)
    return folder


@pytest.fixture
def study(results: Path) -> StudyData:
    return StudyData(AskedStudy(results, "small"))


STUDIES = {
    "small": SMALL,
    "one": ONE,
    "unmeasured": replace(ONE, metrics=()),
    "sublayers": replace(SUBLAYERS, units=("sublayer",), algos=("one_shot", "greedy"), seeds=(0,)),
}


def check_golden(name: str, text: str) -> None:
    """If a change is meant, delete the file and run the test twice: the first run writes it and fails."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path} was written")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STUDIES)
def test_the_sentences_of_a_study_are_those_of_the_golden_file(name: str, tmp_path: Path) -> None:
    write(tmp_path, STUDIES[name])
    m = StudyData(AskedStudy(tmp_path, "small"))
    top = page.finding(m)
    said = [top.headline, top.detail]
    parts, lacking = summary.parts(m)
    for part in parts.values():
        assert not any("nan" in text.lower().split() for text in part.sentences)
        said += ["", f"# {part.heading}", *part.sentences]
    said += ["", f"Not computed: {summary.refusals(m, lacking)}"]
    check_golden(f"{name}.txt", "\n".join(said) + "\n")


def test_sentences_follow_the_numbers(results: Path, study: StudyData, tmp_path: Path) -> None:
    """If the perplexity of the margin's masks is made ten times as large, the sentence on its cost changes."""
    before = load(results, "small").query("status == 'done'")
    logs = np.log(before["pruned/ppl/heldout"])
    expected = np.exp(logs.groupby(compared(before)[0]["objective"]).mean())
    costs = " ".join(summary.costs(study))
    assert f"perplexity, {expected['perplexity']:.1f}" in costs
    assert f"margin gives {expected['margin']:.1f}" in costs
    top = page.finding(study)
    for factor in (OBJECTIVE, DRAWN, SEARCH):
        means = [one.changed.mean for one in study.changes if one.factor == factor]
        assert f"nother {factor} " in top.headline
        assert {f"{min(means):.2f}", f"{max(means):.2f}"} <= {*re.findall(r"[\d.]+", top.headline)}
    for cell in before["cell"]:
        (tmp_path / cell).mkdir(parents=True)
        record = json.loads((results / cell / "result.json").read_text(encoding="utf-8"))
        if record["calibration"]["objective"] == "margin":
            record["evaluation"]["pruned"]["ppl/heldout"] *= 10
        (tmp_path / cell / "result.json").write_text(json.dumps(record), encoding="utf-8")
    changed = " ".join(summary.costs(StudyData(AskedStudy(tmp_path, None))))
    assert f"margin gives {10 * expected['margin']:,.0f}" in changed


def outcome(ratio: IntervalEstimate) -> str:
    """What the sentence on an outcome with this ratio says."""
    parts = dict.fromkeys(("calibration", "search", "interaction"), IntervalEstimate(0.01, 0.0, 0.02))
    shares = Shares(pd.DataFrame(), parts, ratio)
    (said,) = say("variance", outcomes=[{"label": "o", "shares": shares, "verdict": verdicts.larger(shares)}])
    return said


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (IntervalEstimate(4.0, 2.0, 9.0), "calibration explains more"),
        (IntervalEstimate(0.2, 0.1, 0.6), "the search explains more"),
        (IntervalEstimate(2.0, 0.5, 9.0), "inconclusive"),
        (IntervalEstimate(NOT, NOT, NOT), "no ratio"),
        (IntervalEstimate(9.0, 0.0, float("inf")), "calibration : search not determined"),
    ],
)
def test_a_verdict_says_no_more_than_its_interval(ratio: IntervalEstimate, words: str) -> None:
    said = outcome(ratio)
    assert words in said
    assert "inf" not in said.replace("inconclusive", "")
    assert ("at most 2 percent" in said) == (ratio.high == float("inf"))


def test_verdicts_finding_and_searches_leave_out_what_holds_by_construction(
    results: Path, study: StudyData
) -> None:
    """If one-shot were exact for the margin, all of these would be over the cells of the other objective."""
    other = StudyData(AskedStudy(results, "small", {"objective": ("perplexity",)}))
    study.__dict__["by_construction"] = frozenset({"margin"})
    margin = int((study.cells["objective"] == "margin").sum())
    left = f"without margin ({margin} of {len(study.cells)} cells), for which one-shot is exact"
    assert study.left_out.startswith(left)
    for said, expected in (
        (verdicts.claims, verdicts.claims(other)),
        (summary.searches, summary.searches(other)),
    ):
        first, *rest = said(study)
        assert left in first
        assert rest == expected
    assert summary.variance(study) == summary.variance(other)
    assert not study.shares["masks"].sources.equals(study.judged.shares["masks"].sources)
    top, alone = page.finding(study), page.finding(other)
    assert (top.headline, top.table) == (alone.headline, alone.table)
    assert left in top.detail


def test_nothing_is_judged_if_all_holds_by_construction(study: StudyData) -> None:
    study.__dict__["by_construction"] = frozenset({"margin", "perplexity"})
    with pytest.raises(NothingToRead, match="margin, perplexity"):
        _ = study.judged
    said = verdicts.claims(study)
    assert all(f": {verdicts.OPEN}; " in text and "margin, perplexity" in text for text in said[1:])
    assert page.finding(study).table is None
    with pytest.raises(NothingToRead):
        summary.variance(study)


def test_the_table_below_the_headline_has_what_changes_and_what_it_costs(study: StudyData) -> None:
    table = page.finding(study).table
    assert table is not None
    assert [row[1] for row in table.rows] == ["perplexity", "margin", "perplexity : margin"]
    cost = study.held_out.set_index("objective").loc["margin"]
    assert f"{cost['mean']:.2f}" in table.rows[1][5]
    assert table.rows[1][6] == f"{cost['median']:.2f} ({cost['lowest']:.2f} to {cost['highest']:.2f})"


def test_words() -> None:
    assert [listed([]), listed("a"), listed("ab"), listed("abc")] == ["", "a", "a and b", "a, b and c"]
    assert [percents(0.62, 0.5, 0.7), percents(0.62, NOT, NOT)] == ["62 percent (50 to 70)", "62 percent"]
    assert with_interval(8.96, NOT, NOT) == "8.96 (no interval)"
    assert reasons(["b", "a", "", "a"]) == "a (2 times); b"


# The verdicts.

PPL, ACC = "log mean perplexity (2 corpora)", "mean accuracy (4 tasks)"
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


def stand_in(masks: Any = None, accuracy: Any = None, **replaced: Any) -> Any:
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
    ("searches", {}, HOLDS, "than chance in 2 combinations of model, size and objective, clearly more in 0"),
    ("searches", UNSURE, SOME, "objective, clearly more in 0, and neither in 1"),
    ("searches", WORSE, OPEN, "in 1 combinations of model, size and objective, clearly more in 1"),
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
    text = claims(stand_in(**replaced))[list(JUDGES).index(name)]
    assert f": {expected}; " in text
    assert numbers in text


def test_verdicts_are_about_the_cells_that_do_not_hold_by_construction() -> None:
    said = claims(stand_in(left_out="without margin", judged=stand_in(masks=shares(0.2, 0.1, 0.5))))
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
