"""docs/small_study.md agrees with the archived study in analysis/small."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.data.archive import folder
from analysis.figures.fig5_variance_shares import ratio_text
from analysis.report.study_data import StudyData, percent
from analysis.report.summary import claims
from analysis.stats.components import IntervalEstimate

ROOT = Path(__file__).parents[2]
WRITTEN = " ".join((ROOT / "docs/small_study.md").read_text(encoding="utf-8").split())
OUTCOMES = ("masks (Jaccard distance)", "calibration loss", "held-out perplexity (log)", "accuracy")


@pytest.fixture(scope="module")
def study() -> StudyData:
    return StudyData(folder(ROOT / "analysis/small/small.tar.xz"), "small")


@pytest.mark.slow
def test_the_page_has_every_computed_verdict(study: StudyData) -> None:
    for sentence in claims(study):
        assert sentence in WRITTEN


@pytest.mark.slow
def test_the_table_of_shares_is_the_computed_one(study: StudyData) -> None:
    def share(e: IntervalEstimate) -> str:
        return f"{percent(e.value)} ({percent(e.low)} to {percent(e.high)})"

    for outcome, shares in zip(OUTCOMES, study.shares[0].values(), strict=True):
        parts = [share(shares.parts[name]) for name in ("calibration", "search", "interaction")]
        ratios = [ratio_text(r) for r in (shares.total_ratio, shares.objective_ratio, shares.objective_draw)]
        assert f"| {' | '.join([outcome, *parts, *ratios])} |" in WRITTEN


@pytest.mark.slow
def test_the_tables_of_regret_are_the_computed_ones(study: StudyData) -> None:
    regrets = study.regrets
    judged = regrets[regrets["objective"] != "block_influence"]
    for algo, cells in judged.groupby("algo"):
        found = f"{(cells['regret'] == 0).sum()} of {len(cells)}"
        errors, asked = cells["regret_se"], cells["asked"].astype(float).mean()
        assert f"| {algo} | {found} | {errors.mean():.2f} | {errors.max():.1f} | {asked:.0f} |" in WRITTEN
    for algo in ("one_shot", "greedy", "beam", "fast_block_select"):
        means = regrets[regrets["algo"] == algo].groupby("objective")["regret_se"].mean()
        assert f"| {algo} | {' | '.join(f'{mean:.2f}' for mean in means)} |" in WRITTEN


def test_nothing_is_missing_from_the_study(study: StudyData) -> None:
    assert set(study.frame["status"]) == {"done"}
    assert f"{len(study.frame):,} cells" in WRITTEN


def test_no_ratio_is_infinite() -> None:
    assert "infin" not in WRITTEN
    assert "\N{INFINITY}" not in WRITTEN
