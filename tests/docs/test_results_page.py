"""docs/results.md is short, its tables are computed from the archives, and its sentences repeat computed numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from analysis.report.paper_verdicts import claims
from analysis.stats import overlap_pairs
from docs import describe_results
from docs.describe_results import ALL, MAIN, PAGE, ROOT, study

TEXT = PAGE.read_text(encoding="utf-8")
FINDINGS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:6]
ESTIMATE = re.compile(r"(?<![\d.])([\d.,]+)(?: percent)? \(([\d.]+) to ([\d.]+)\)")


@pytest.fixture(scope="module")
def said() -> str:
    """The computed verdicts on the paper's statements."""
    return " ".join(claims(study("study", MAIN)))


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
def test_the_tables_are_those_of_the_archives() -> None:
    assert describe_results.filled(TEXT) == TEXT, "run make describe"
    assert all(f"<!-- {name}: written" in TEXT for name in describe_results.TABLES)


@pytest.mark.slow
def test_estimates_in_sentences_are_in_the_table_of_their_finding_or_in_a_verdict(said: str) -> None:
    for finding in FINDINGS:
        prose = " ".join(line for line in finding.splitlines() if not line.startswith("|"))
        table = " ".join(cell for row in rows(finding) for cell in row)
        for value, low, high in ESTIMATE.findall(prose):
            known = rf"(?<![\d.]){re.escape(value)}(?: percent)? \({re.escape(low)} to {re.escape(high)}\)"
            assert re.search(known, table + said), f"{value} ({low} to {high})"


@pytest.mark.slow
def test_counts_in_sentences_are_those_of_the_archive() -> None:
    written = " ".join(TEXT.split())
    cells = study("study", ALL).cells
    assert f"{len(cells)} cells" in written
    found = cells[cells["objective"].isin(describe_results.TEXT)]
    middle = found["dropped"].map(lambda mask: mask == (13, 14, 15, 16, 17, 18)).groupby(found["algo"]).sum()
    assert (middle["beam"], middle["bayesian"], middle["greedy"]) == (12, 12, 11)
    assert "Beam and bayesian search remove blocks 13 to 18, counted from 0, in all twelve cells" in written
    assert "Greedy does so in eleven." in written
    overlaps = study("study", describe_results.TEXT).overlaps.query("comparison == 'objectives'")
    assert f"corrected overlap {overlaps['corrected'].mean():.2f}" in written


@pytest.mark.slow
def test_sentences_on_the_margin_are_those_of_the_archive() -> None:
    written, own = " ".join(TEXT.split()), study("study", ("margin",))
    cells = own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))
    better = cells[cells["algo"].isin(("greedy", "beam", "genetic", "bayesian"))]
    assert len(better) == (better["loss"] < better["dense_loss"]).sum() == 24
    assert "all 24 masks of greedy, beam, genetic and bayesian search have a lower margin loss" in written
    least, most = -cells["dense_loss"].max(), -cells["dense_loss"].min()
    assert f"prefers right answers by {least:.2f} to {most:.2f} nats" in written
    ranks = [stats.spearmanr(draw["loss"], draw["log"]).statistic for _, draw in cells.groupby("draw")]
    assert f"between {min(ranks):.2f} and {max(ranks):.2f}" in written
    dense = {kind: metric.of(cells, "dense").iloc[0] for kind, metric in own.metrics.items()}
    assert f"unpruned: perplexity {dense['ppl']:.1f}, accuracy {dense['acc']:.1f} percent" in written


@pytest.mark.slow
def test_sentences_on_sizes_are_those_of_the_archive() -> None:
    written = " ".join(TEXT.split())
    few, middle, many = describe_results.by_size("perplexity")
    assert f"by {few:.2f} for 8 windows, {middle:.2f} for 32 and {many:.2f} for 128" in written
    assert f"Even 256 items leave the margin at {describe_results.by_size('margin')[-1]:.2f}" in written


@pytest.mark.slow
def test_sentences_on_seeds_are_those_of_the_archive() -> None:
    cells = study("study_seeds", describe_results.TEXT).cells
    seeds, draws = (
        overlap_pairs.pairs(cells, name).groupby("algo")["corrected"].mean() for name in ("seeds", "draws")
    )
    expected = (
        f"nearly as another draw does (overlaps {seeds['genetic']:.2f}, {draws['genetic']:.2f}), but none of"
    )
    assert expected in " ".join(TEXT.split())
    assert seeds["bayesian"] == 1.0


@pytest.mark.slow
def test_nothing_of_the_first_part_is_missing() -> None:
    for name, objectives in (("study", ALL), ("study_sizes", MAIN), ("study_seeds", describe_results.TEXT)):
        frame = study(name, objectives).frame
        assert set(frame["status"]) == {"done"}
