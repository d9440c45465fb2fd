"""The pages on the studies, on healing and on the statistics state what the archives say, computed here again."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.data.archive import folder
from analysis.data.load import Metric, load, of_windows
from analysis.figures.fig5_variance_shares import ratio_text
from analysis.figures.fig10_healing import healed, summary, table
from analysis.report.study_data import StudyData, percent
from analysis.report.summary import claims
from analysis.stats.components import IntervalEstimate
from docs import described
from docs.described import ALL, GEMMA, MAIN, ROOT, SMOLLM2, overlap, path
from docs.described import TEXT as OF_TEXT
from docs.described import study as archived

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
    own, written = archived("study", ("perplexity",)), page("statistics.md")
    cells = own.regrets.query("algo == 'fast_block_select'")
    in_errors = (cells["regret"] / cells["standard_error"].astype(float)).mean()
    assert f"for perplexity are {in_errors:.2f} such errors above the best" in written
    assert f"their paired difference is {cells['regret_se'].mean():.1f} errors" in written
    perplexity = own.cells.assign(ppl=own.metrics["ppl"].of(own.cells))
    logs = perplexity.pivot(index="draw", columns="algo", values="ppl")
    assert (own.regrets.query("algo == 'beam'")["regret"] == 0).all()
    assert (logs["fast_block_select"] > logs["beam"]).sum() == 6
    assert "and have a higher held-out perplexity in all six draws" in written


# -- docs/results.md

TEXT = path("results.md").read_text(encoding="utf-8")
WRITTEN = page("results.md")
FURTHER = page("study_tables.md")
FINDINGS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:6]
ESTIMATE = re.compile(r"(?<![\d.])([\d.,]+)(?: percent)? \(([\d.]+) to ([\d.,]+)\)")


@pytest.fixture(scope="module")
def said() -> str:
    """The computed verdicts on the paper's statements."""
    return " ".join(claims(archived("study", MAIN)))


def rows(finding: str) -> list[list[str]]:
    """The cells of a finding's table, without its first two lines."""
    table = [line.strip("|").split("|") for line in finding.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def test_the_page_is_short_and_each_finding_has_a_sentence_a_table_and_a_picture() -> None:
    # Numbers in tables count as words; the bars between them and comments do not.
    words = [word for word in re.sub("<!--.*?-->", "", TEXT).split() if re.search(r"\w", word)]
    assert len(words) < 1200
    for number, finding in enumerate(FINDINGS, start=1):
        assert finding.startswith(f"{number}. ")
        bold = re.search(r"\n\n\*\*(.*?)\.\*\*", finding, re.DOTALL)
        assert bold is not None
        assert ESTIMATE.search(" ".join(bold[1].split())), "no finding in bold with its interval"
        assert rows(finding)
        (picture,) = re.findall(r"!\[.+\]\((.+)\)", finding)
        assert (ROOT / "docs" / picture).is_file()


@pytest.mark.slow
def test_estimates_in_sentences_are_in_a_table_or_in_a_verdict(said: str) -> None:
    for finding in FINDINGS:
        prose = " ".join(line for line in finding.splitlines() if not line.startswith("|"))
        table = " ".join(cell for row in rows(finding) for cell in row)
        for value, low, high in ESTIMATE.findall(prose):
            known = rf"(?<![\d.]){re.escape(value)}(?: percent)? \({re.escape(low)} to {re.escape(high)}\)"
            assert re.search(known, table + FURTHER + said), f"{value} ({low} to {high})"


def halved(sublayers: tuple[int, ...]) -> tuple[int, ...]:
    """The blocks that the removed sub-layers are the halves of."""
    return tuple(unit // 2 for unit in sublayers if {unit, unit ^ 1} <= set(sublayers) and unit % 2 == 0)


@pytest.mark.slow
def test_counts_in_sentences_are_those_of_the_archive() -> None:
    cells = archived("study", ALL).cells
    gemma = archived("study", ALL, model=GEMMA).cells
    assert f"{len(cells) + len(gemma)} cells" in WRITTEN
    found = cells[cells["objective"].isin(OF_TEXT)]
    middle = found["dropped"].map(lambda mask: mask == (13, 14, 15, 16, 17, 18)).groupby(found["algo"]).sum()
    assert (middle["beam"], middle["bayesian"], middle["greedy"]) == (12, 12, 11)
    assert "Beam and bayesian search remove blocks 13 to 18, counted from 0, in all twelve cells" in WRITTEN
    assert "Greedy does so in eleven; over sub-layers (three draws), it ends with the same masks." in WRITTEN
    units = archived("study_units", OF_TEXT).cells
    blocks = units["dropped"].where(units["unit"] == "block", units["dropped"].map(halved))
    assert (blocks.groupby([units["objective"], units["draw"]]).nunique() == 1).all()
    assert len(units) == 12
    same, other = (
        overlap(archived("study", OF_TEXT, model=model), "objectives") for model in (SMOLLM2, GEMMA)
    )
    assert f"whose masks overlap by {same}, it has" in WRITTEN
    assert f"on Gemma, where they overlap by {other}, " in WRITTEN


@pytest.mark.slow
def test_sentences_on_the_margin_are_those_of_the_archive() -> None:
    own = archived("study", ("margin",))
    cells = own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))
    better = cells[cells["algo"].isin(("greedy", "beam", "genetic", "bayesian"))]
    assert len(better) == (better["loss"] < better["dense_loss"]).sum() == 24
    assert "all 24 masks of greedy, beam, genetic and bayesian search have a lower margin loss" in WRITTEN
    least, most = -cells["dense_loss"].max(), -cells["dense_loss"].min()
    assert f"prefers right answers by {least:.2f} to {most:.2f} nats per token" in WRITTEN
    ranks = [stats.spearmanr(draw["loss"], draw["log"]).statistic for _, draw in cells.groupby("draw")]
    assert f"the rank correlation over searches is between {min(ranks):.2f} and {max(ranks):.2f}" in FURTHER
    chance = -archived("study_labels", ("margin",), calibration="commonsense170k").cells["dense_loss"]
    assert f"it prefers the right one by {chance.min():.2f} to {chance.max():.2f}, by draw" in FURTHER
    dense = {kind: metric.of(cells, "dense").iloc[0] for kind, metric in own.metrics.items()}
    assert f"unpruned: perplexity {dense['ppl']:.1f}, accuracy {dense['acc']:.1f} percent" in WRITTEN


@pytest.mark.slow
def test_sentences_on_gemma_are_those_of_the_archive() -> None:
    optima = archived("study_all", OF_TEXT, model=GEMMA)
    assert set(optima.frame["status"]) == {"done"}
    best = optima.cells[optima.cells["algo"] == "exhaustive"].set_index(["objective", "draw"])["dropped"]
    cells = optima.cells.join(best.rename("best"), on=["objective", "draw"])
    counts = (cells["dropped"] == cells["best"]).groupby(cells["algo"]).sum()
    assert len(best) == 6
    assert list(counts[counts == 6].index) == ["bayesian", "beam", "cbo", "exhaustive", "genetic"]
    scored = described.pairs_scored(optima)
    few = [name for name in ("bayesian", "beam", "cbo", "genetic") if scored[name] != "153"]
    assert few == ["beam", "genetic"]
    assert all(int(scored[name].split()[-1]) < 153 / 2 for name in ("beam", "genetic"))
    assert (
        "beam and genetic search find the best in three of three draws for both objectives, and score less "
        "than half of them; greedy never does" in WRITTEN
    )
    assert counts["greedy"] == 0
    own = archived("study", ALL, model=GEMMA)
    margin, divergence = (described.accuracy(own, name) for name in ("margin", "divergence"))
    assert f"{margin} percent for the margin, {divergence.split(',')[0]} for divergence" in WRITTEN
    dense = [
        archived("study", ("margin",), model=model).cells["dense/acc/arc_easy"] for model in (SMOLLM2, GEMMA)
    ]
    small, large = (100 * values.iloc[0] for values in dense)
    assert f"SmolLM2 answers {small:.0f} percent, Gemma {large:.0f}" in WRITTEN
    unpruned = {kind: one.of(own.cells, "dense").iloc[0] for kind, one in own.metrics.items()}
    assert f"unpruned: perplexity {unpruned['ppl']:.1f}, accuracy {unpruned['acc']:.1f} percent" in FURTHER


@pytest.mark.slow
def test_sentences_on_seeds_are_those_of_the_archive() -> None:
    own = archived("study_seeds", OF_TEXT, ("genetic",))
    seeds, draws = (overlap(own, name) for name in ("seeds", "draws"))
    expected = f"with an overlap of {seeds}, about as another draw does, with {draws}, and none of `bayesian`"
    assert expected in WRITTEN
    assert overlap(archived("study_seeds", OF_TEXT, ("bayesian",)), "seeds") == "1.00, all equal"


@pytest.mark.slow
def test_sentences_on_healing_are_those_of_the_archive() -> None:
    own = archived("study_healing", described.OBJECTIVES)
    ratios = own.relative.states
    by_maps, by_training = (
        100 * (1 - ratios.loc[ratios["state"].str.startswith(state), "value"])
        for state in described.STATES[1:]
    )
    assert len(by_maps) == len(by_training) == 6
    expected = (
        f"Repair by linear maps lowers perplexity by {min(by_maps):.0f} to {max(by_maps):.0f} percent, "
        f"healing by {min(by_training):.0f} to {max(by_training):.0f} percent."
    )
    assert expected in WRITTEN
    masks = own.cells.groupby("objective")["dropped"].nunique()
    assert (masks["block_influence"], own.cells["dropped"].nunique()) == (1, 5)
    assert "The mask for block_influence" in WRITTEN
    assert "the order of the five masks survives is open" in WRITTEN
    found = summary(healed(own.results, own.frame, of_windows(own.frame)))
    ranks = found[found["state"] == "16,384 tokens"].iloc[0]
    ends = " to ".join(f"{ranks[f'correlation_{end}']:.2f}" for end in ("low", "high"))
    assert f"the rank correlation is {ranks['correlation']:.2f} ({ends})" in WRITTEN


@pytest.mark.slow
def test_nothing_of_the_first_part_is_missing() -> None:
    parts = {"study": ALL, "study_sizes": MAIN, "study_seeds": OF_TEXT, "study_labels": ("margin",)}
    parts |= {"study_units": OF_TEXT, "study_healing": described.OBJECTIVES}
    frames = [archived(name, objectives).frame for name, objectives in parts.items()]
    for frame in (*frames, archived("study", ALL, model=GEMMA).frame):
        assert set(frame["status"]) == {"done"}


def test_the_archives_of_the_study_are_small() -> None:
    archives = (ROOT / "analysis").glob("study*/study*.tar.xz")
    assert sum(archive.stat().st_size for archive in archives) < 40e6
