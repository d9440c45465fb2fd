"""The pages on the small study, on healing and on the statistics state what the archives say, computed here again."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.data.archive import folder
from analysis.data.load import Metric, load
from analysis.figures.fig5_variance_shares import ratio_text
from analysis.figures.fig10_healing import healed, summary, table
from analysis.report.study_data import StudyData, percent
from analysis.report.summary import claims
from analysis.stats.components import IntervalEstimate
from docs import described
from docs.described import ROOT

MINUS = "\N{MINUS SIGN}"
HELDOUT = Metric("ppl", ("ppl/heldout",))
OUTCOMES = ("masks (Jaccard distance)", "calibration loss", "held-out perplexity (log)", "accuracy")


def page(name: str) -> str:
    """The text of a page on one line."""
    return " ".join(described.path(name).read_text(encoding="utf-8").split())


# -- docs/small_study.md


@pytest.fixture(scope="module")
def study() -> StudyData:
    return StudyData(folder(ROOT / "analysis/small/small.tar.xz"), "small")


@pytest.mark.slow
def test_every_computed_verdict_is_on_the_page(study: StudyData) -> None:
    for sentence in claims(study):
        assert sentence in page("small_study.md")


@pytest.mark.slow
def test_the_table_of_shares_is_the_computed_one(study: StudyData) -> None:
    def share(e: IntervalEstimate) -> str:
        return f"{percent(e.value)} ({percent(e.low)} to {percent(e.high)})"

    for outcome, shares in zip(OUTCOMES, study.shares[0].values(), strict=True):
        parts = [share(shares.parts[name]) for name in ("calibration", "search", "interaction")]
        ratios = [ratio_text(r) for r in (shares.total_ratio, shares.objective_ratio, shares.objective_draw)]
        assert f"| {' | '.join([outcome, *parts, *ratios])} |" in page("small_study.md")


@pytest.mark.slow
def test_the_tables_of_regret_are_the_computed_ones(study: StudyData) -> None:
    regrets, written = study.regrets, page("small_study.md")
    judged = regrets[regrets["objective"] != "block_influence"]
    for algo, cells in judged.groupby("algo"):
        found = f"{(cells['regret'] == 0).sum()} of {len(cells)}"
        errors, asked = cells["regret_se"], cells["asked"].astype(float).mean()
        assert f"| {algo} | {found} | {errors.mean():.2f} | {errors.max():.1f} | {asked:.0f} |" in written
    for algo in ("one_shot", "greedy", "beam", "fast_block_select"):
        means = regrets[regrets["algo"] == algo].groupby("objective")["regret_se"].mean()
        assert f"| {algo} | {' | '.join(f'{mean:.2f}' for mean in means)} |" in written


def test_nothing_is_missing_from_the_study_and_no_ratio_is_infinite(study: StudyData) -> None:
    written = page("small_study.md")
    assert set(study.frame["status"]) == {"done"}
    assert f"{len(study.frame):,} cells" in written
    assert "infin" not in written
    assert "\N{INFINITY}" not in written


# -- docs/healing.md


@pytest.fixture(scope="module")
def states() -> pd.DataFrame:
    results = folder(ROOT / "analysis/heal/heal.tar.xz")
    return healed(results, load(results, "heal"), HELDOUT)


def test_the_page_on_healing_has_the_computed_statistics_of_every_state(states: pd.DataFrame) -> None:
    rows = summary(states)
    assert len(rows) >= 4
    for row in rows.to_dict("records"):
        numbers = [
            f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})".replace("-", MINUS)
            for name in ("correlation", "spread_before", "spread", "regret")
        ]
        assert " | ".join([row["state"], str(row["masks"]), *numbers]) in page("healing.md"), row


def test_the_page_on_healing_has_each_mask_with_its_perplexities(states: pd.DataFrame) -> None:
    def shown(perplexity: float) -> str:
        if perplexity >= 1e6:
            return f"{perplexity:.1e}".replace("e+0", "e")
        return f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.1f}"

    rows, written = table(states), page("healing.md")
    masks = list(rows.groupby("dropped", sort=False))
    assert len(masks) >= 12
    for dropped, of_mask in masks:
        ppl = of_mask.set_index("state")["ppl"]
        assert f"| {dropped} | {' | '.join(map(shown, ppl))} |" in written
    assert set(rows.loc[rows["tokens"] > 0, "runs"]) == {3}
    assert "Healings are means of three seeds." in written


# -- docs/statistics.md


@pytest.mark.slow
def test_a_regret_below_one_error_of_the_loss_is_no_reason_to_call_a_mask_as_good() -> None:
    own, written = described.study("study", ("perplexity",)), page("statistics.md")
    cells = own.regrets.query("algo == 'fast_block_select'")
    in_errors = (cells["regret"] / cells["standard_error"].astype(float)).mean()
    assert f"for perplexity are {in_errors:.2f} such errors above the best" in written
    assert f"their paired difference is {cells['regret_se'].mean():.1f} errors" in written
    perplexity = own.cells.assign(ppl=own.metrics["ppl"].of(own.cells))
    logs = perplexity.pivot(index="draw", columns="algo", values="ppl")
    assert (own.regrets.query("algo == 'beam'")["regret"] == 0).all()
    assert (logs["fast_block_select"] > logs["beam"]).sum() == 6
    assert "and have a higher held-out perplexity in all six draws" in written
