"""docs/results.md is short, and its numbers are those of the archived study in analysis/small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.data.load import done
from analysis.data.mlflow_store import folder
from analysis.figures.mask_overlaps import comparisons, means
from analysis.figures.variance_shares import ratio_text
from analysis.report.phrasing import percent
from analysis.report.study_data import StudyData
from tests.docs.test_small_study_page import OUTCOMES, ROOT, WRITTEN

PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
FINDINGS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:6]
NUMBER = re.compile(r"[\d.,]*\d")


@pytest.fixture(scope="module")
def study() -> StudyData:
    return StudyData(folder(ROOT / "analysis/small/small.tar.xz"), "small")


def rows(finding: str) -> list[list[str]]:
    """The cells of a finding's table, without its first two lines."""
    table = [line.strip("|").split("|") for line in finding.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def test_the_page_is_short_and_each_finding_has_a_sentence_a_table_and_a_picture() -> None:
    assert len(PAGE.split()) < 1200
    for number, finding in enumerate(FINDINGS, start=1):
        assert finding.startswith(f"{number}. ")
        assert re.search(r"\n\n\*\*.*?\d.*?\.\*\*", finding, re.DOTALL), "no finding with a number in bold"
        assert rows(finding)
        (picture,) = re.findall(r"!\[.+\]\((.+)\)", finding)
        assert (ROOT / "docs" / picture).is_file()


def test_the_shares_are_the_computed_ones(study: StudyData) -> None:
    expected = []
    for outcome, shares in zip(OUTCOMES, study.shares[0].values(), strict=True):
        parts = [shares.parts[name] for name in ("calibration", "search")]
        shown = [f"{percent(e.value)} ({percent(e.low)} to {percent(e.high)})" for e in parts]
        expected.append([outcome, *shown, ratio_text(shares.total_ratio)])
    assert rows(FINDINGS[0]) == expected


def test_the_overlaps_are_those_of_figure_4(study: StudyData) -> None:
    computed = means(comparisons(done(study.frame))).set_index(["comparison", "model"])
    for comparison, *shown in rows(FINDINGS[1]):
        for model, cell in zip(("smollm2", "gemma3_270m"), shown, strict=True):
            row = computed.loc[(comparison, model)]
            assert cell == f"{row['corrected']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


@pytest.mark.parametrize("finding", FINDINGS[2:], ids=lambda finding: finding[:1])
def test_the_other_tables_are_parts_of_those_of_the_small_study(finding: str) -> None:
    lines = [line for line in small_study().splitlines() if line.startswith("|")]
    for name, *shown in rows(finding):
        numbers = [number for cell in shown for number in NUMBER.findall(cell)]
        assert any(set(numbers) <= set(NUMBER.findall(line)) for line in lines), name


def test_bold_sentences_repeat_the_small_study() -> None:
    for finding in FINDINGS:
        bold = " ".join(re.findall(r"\*\*(.*?)\*\*", finding, re.DOTALL))
        for estimate in re.findall(r"([\d.]+)(?: percent)? \(([\d.]+) to ([\d.]+)\)", bold):
            value, low, high = map(re.escape, estimate)
            assert re.search(rf"{value}(?: percent)? \({low} to {high}\)", WRITTEN), estimate


def small_study() -> str:
    """The page with every table."""
    return Path(ROOT / "docs/small_study.md").read_text(encoding="utf-8")
