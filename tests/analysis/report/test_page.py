"""The page of a study is self-contained and complete, and its sentences follow from the results."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import load
from analysis.report import cells, finding, summary
from analysis.report import page as report_page
from analysis.report.page_tables import tables as tables_of
from analysis.report.study_data import StudyData, count, listed, percents, reasons, sentence, with_interval
from analysis.report.summary import parts
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.grid import compared
from tests.helpers.analysis_grid import ONE, Study, write
from tests.helpers.traces import score

SMALL = Study(
    models=("smollm2",),
    ratios=(0.1,),
    objectives=("perplexity", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian"),
    lost=1,
)


class Page(HTMLParser):
    """The ids, addresses, tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    keys = write(folder, SMALL)
    (folder / keys[0] / "launch.log").write_text(
        "<script>alert('log')</script>\nlast line\n", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    path = report_page.write(results, "small", results / "figures")
    assert path == results / "figures" / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def summary_of_study(results: Path) -> dict[str, list[str]]:
    return _summary(results)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_needs_no_other_file(text: str, page: Page) -> None:
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert sum(address.startswith("data:image/svg+xml") for address in page.addresses) == 8
    assert not {"iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in text
    assert not re.search(r"url\((?!data:)", text)


def test_every_link_has_a_target_and_ids_are_unique(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_every_cell_is_there_with_mask_curve_and_log(results: Path, text: str, page: Page) -> None:
    frame = load(results, "small")
    assert [f"cell-{cell}" in page.ids for cell in frame["cell"]] == [True] * len(frame)
    done = int((frame["status"] == "done").sum())
    assert text.count('class="strip numbered"') == text.count('class="curve"') == done
    assert "LossError: the loss is not finite" in page.words
    assert "This cell has no result" in page.words
    assert "last line" in page.words


def test_what_was_logged_is_shown_and_never_run(text: str) -> None:
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_the_title_line_and_the_configuration(page: Page) -> None:
    for words in (
        "study small",
        "model smollm2",
        "seeds 0, 1, 2",
        "commit 0123456789ab",
        "2 of 36 cells missing",
    ):
        assert words in page.words
    assert "calibration.source" in page.words
    assert "pruning.algo" not in page.words  # one_shot, and not pruning.algo.one_shot.OneShot


def test_the_same_results_give_the_same_page(results: Path, text: str, tmp_path: Path) -> None:
    assert report_page.write(results, "small", tmp_path).read_text(encoding="utf-8") == text


def test_sentences_follow_the_numbers(
    results: Path, summary_of_study: dict[str, list[str]], tmp_path: Path
) -> None:
    """If the perplexity of the margin's masks is made ten times as large, the sentence on its cost changes."""
    before = load(results, "small").query("status == 'done'")
    logs = np.log(before["pruned/ppl/heldout"])
    expected = np.exp(logs.groupby(compared(before)[0]["objective"]).mean())
    costs = " ".join(summary_of_study["What pruning for one objective costs in other outcomes"])
    assert f"when pruned for perplexity, {expected['perplexity']:.1f}" in costs
    assert f"margin gives {expected['margin']:.1f}" in costs

    for cell in before["cell"]:
        (tmp_path / cell).mkdir(parents=True)
        record = json.loads((results / cell / "result.json").read_text(encoding="utf-8"))
        if record["calibration"]["objective"] == "margin":
            record["evaluation"]["pruned"]["ppl/heldout"] *= 10
        (tmp_path / cell / "result.json").write_text(json.dumps(record), encoding="utf-8")
    changed = " ".join(summary.costs(StudyData(tmp_path, None)))
    assert f"margin gives {10 * expected['margin']:,.0f}" in changed


def _summary(results: Path, study: str | None = "small") -> dict[str, list[str]]:
    return {part.heading: part.sentences for part in parts(StudyData(results, study))}


def test_no_part_of_the_summary_is_empty_and_each_is_a_sentence(
    summary_of_study: dict[str, list[str]],
) -> None:
    for heading, sentences in summary_of_study.items():
        assert sentences, heading
        assert all(text.endswith(".") and text[:1] == text[:1].upper() for text in sentences)
        assert not any("nan" in text.lower().split() for text in sentences)


def test_a_study_of_one_cell_says_what_it_cannot_tell(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    page = Page(report_page.write(tmp_path, "small", tmp_path / "out").read_text(encoding="utf-8"))
    sentences = _summary(tmp_path)
    assert any("no shares" in text for text in sentences["Calibration against search"])
    assert sentences["Comparison of searches"] == [
        "Only one search algorithm was studied, so there is nothing to compare."
    ]
    costs = " ".join(sentences["What pruning for one objective costs in other outcomes"])
    assert "Only one objective was studied" in costs
    assert "drawing failed" not in page.words


def test_a_study_without_held_out_numbers_says_so(tmp_path: Path) -> None:
    write(tmp_path, Study(**(ONE.__dict__ | {"metrics": (), "cells": []})))
    page = Page(report_page.write(tmp_path, "small", tmp_path / "out").read_text(encoding="utf-8"))
    assert "not known from this study" in page.words.lower()
    assert "Not drawn:" in page.words


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NothingToRead, match="no finished cell"):
        report_page.write(tmp_path, None, tmp_path)


def test_the_command(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["report", "--results", str(results), "--study", "small", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(report_page, "page", lambda material: f"<p>{material.study}</p>")
    report_page.main()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>small</p>"


NOT = float("nan")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (IntervalEstimate(4.0, 2.0, 9.0), "calibration explains more"),
        (IntervalEstimate(0.2, 0.1, 0.6), "the search explains more"),
        (IntervalEstimate(2.0, 0.5, 9.0), "inconclusive which explains more"),
        (IntervalEstimate(2.0, NOT, NOT), "3 draws are too few"),
        (IntervalEstimate(NOT, NOT, NOT), "no ratio"),
        (IntervalEstimate(NOT, 3.0, float("inf")), "calibration : search above 3.00"),
        (IntervalEstimate(9.0, 0.0, float("inf")), "calibration : search not determined"),
    ],
)
def test_a_verdict_says_no_more_than_its_interval(ratio: IntervalEstimate, words: str) -> None:
    note = "3 draws are too few" if ratio.low != ratio.low else ""
    parts = dict.fromkeys(("search", "interaction"), IntervalEstimate(0.01, 0.0, 0.02))
    shares: Any = Shares(None, parts, ratio, ratio, 10, 3, note)  # type: ignore[arg-type]
    said = "; ".join(summary._verdict(shares, shares, "", ""))
    assert words in said
    assert "inf" not in said.replace("inconclusive", "")
    assert ("the search explains at most 2 percent" in said) == (ratio.high == float("inf"))
    doubted = "; ".join(summary._verdict(shares, shares, "", "noise would do the same"))
    assert ("explains more here" in said) == ("inconclusive: noise would do the same" in doubted)


def test_what_shares_say_is_judged_without_what_holds_by_construction() -> None:
    every, others = (
        Shares(None, {}, ratio, ratio, 10, 9)  # type: ignore[arg-type]
        for ratio in (IntervalEstimate(4.0, 2.0, 9.0), IntervalEstimate(1.5, 0.8, 3.0))
    )
    said = summary._verdict(every, others, "block_influence", "")
    assert said[0].startswith("calibration : search 4.00 (2.00 to 9.00)")
    assert said[1] == "without block_influence, it is 1.50 (0.80 to 3.00)"
    assert "inconclusive which explains more" in said[2]


def test_verdicts_finding_and_searches_leave_out_what_holds_by_construction(results: Path) -> None:
    """If one-shot were exact for the margin, all of these would be over the cells of the other objective."""
    other = StudyData(results, "small", {"objective": ("perplexity",)})
    material = StudyData(results, "small")
    material.__dict__["by_construction"] = frozenset({"margin"})
    cells = material.cells
    margin = int((cells["objective"] == "margin").sum())
    left = f"without margin ({margin} of {len(cells)} cells), for which one-shot is exact by construction"
    said, expected = list(summary.claims(material)), list(summary.claims(other))
    assert said == [f"All verdicts are {left}.", *expected]
    searches = list(summary.searches(material))
    assert searches == [f"Searches are compared {left}.", *summary.searches(other)]
    assert any(f"{left}." in text for text in summary.against(material))
    assert material.shares[0]["masks"].cells > material.judged.shares[0]["masks"].cells
    top, alone = finding.finding(material), finding.finding(other)
    assert top.headline == alone.headline
    assert top.bars == alone.bars
    assert left in top.detail


def test_nothing_is_judged_if_all_holds_by_construction(results: Path) -> None:
    material = StudyData(results, "small")
    material.__dict__["by_construction"] = frozenset({"margin", "perplexity"})
    with pytest.raises(NothingToRead, match="no finished cells but those of margin, perplexity"):
        _ = material.judged
    said = list(summary.claims(material))
    assert all(": inconclusive; there are no finished cells but" in text for text in said[1:])
    assert finding.finding(material).numbers
    assert not any("explains more here" in text for text in summary.against(material))


def test_words() -> None:
    assert [count(1, "cell"), count(1200, "cell")] == ["1 cell", "1,200 cells"]
    assert [listed([]), listed("a"), listed("ab"), listed("abc")] == ["", "a", "a and b", "a, b and c"]
    assert percents(0.62, 0.5, 0.7) == "62 percent (50 to 70)"
    assert percents(0.62, NOT, NOT) == "62 percent"
    assert reasons(["b", "a", "", "a"]) == "a (2 times); b"
    assert sentence(["one", "", "two"]) == "One; two."


def test_tables_show_the_papers_numbers_for_its_models(tmp_path: Path) -> None:
    """For LLaMA3 without 7 of 32 blocks, tables 1 to 3 of arXiv 2604.24938 v1 have averages and seconds."""
    panel = ("one_shot", "greedy", "cbo")
    write(
        tmp_path,
        Study(
            models=("llama3",),
            ratios=(7 / 32,),
            objectives=("perplexity", "margin"),
            algos=panel,
            seeds=(0,),
            metrics=("ppl/wikitext2", "ppl/c4", "ppl/lambada", "acc/piqa"),
            lost=0,
            broken=0,
        ),
    )
    tables = {table.name: table for table in tables_of(StudyData(tmp_path, "small"))}
    assert _column(tables["perplexity"], "perplexity", "paper") == ["19.35", "19.90", "19.61"]
    assert _column(tables["perplexity"], "margin", "paper") == ["–"] * 3  # noqa: RUF001 - the paper does not print these
    assert _column(tables["accuracy"], "margin", "paper") == ["57.99", "60.69", "59.93"]
    seconds = [heading for heading, _ in tables["search"].headings].index("paper, seconds")
    assert sorted(str(row[seconds].text) for row in tables["search"].rows) == ["3,223", "551", "8,173"]


def test_the_report_says_which_measurement_is_in_no_mean(results: Path) -> None:
    material = StudyData(results, "small")
    frame = material.frame.copy()
    column = f"pruned/{material.metrics['ppl'].names[0]}"
    frame["pruned/ppl/another"] = frame[column].where(frame.index % 2 == 0)
    later = StudyData(results, "small")
    later.__dict__["frame"] = frame
    done = frame[frame["status"] == "done"]
    having = int(done["pruned/ppl/another"].notna().sum())
    expected = f"Means do not include ppl/another: only {having} of {len(done)} cells have it."
    assert expected in list(summary.refusals(later))


def test_tables_show_the_numbers_of_the_statistics(results: Path) -> None:
    material = StudyData(results, "small")
    tables = {table.name: table for table in tables_of(material)}
    assert not [table.reason for table in tables.values() if table.reason]
    assert all(len(row) == len(table.headings) for table in tables.values() for row in table.rows)
    pairs = material.overlaps[material.overlaps["comparison"] == "draws"]
    (row,) = [row for row in tables["overlap"].rows if row[0].text == "draws"]
    assert [value.text for value in row[2:6]] == [
        f"{len(pairs)}",
        f"{len({*pairs['draw_a'], *pairs['draw_b']})}",
        f"{pairs['jaccard'].mean():.2f}",
        f"{pairs['corrected'].mean():.2f}",
    ]
    accuracies = [row for row in tables["crossed"].rows if row[0].text == "acc/heldout"]
    assert all(20 < float(row[5].text) < 80 for row in accuracies)  # in percent, and not negative
    assert len(tables["stability"].rows) == 2 * 4


def _column(table: cells.Table, objective: str, heading: str) -> list[str]:
    """A column of the rows of one objective, for one_shot, greedy and cbo."""
    position = {name: i for i, (name, _) in enumerate(table.headings)}
    rows = {
        str(r[position["search"]].text): r for r in table.rows if r[position["pruned for"]].text == objective
    }
    return [str(rows[algo][position[heading]].text) for algo in ("one_shot", "greedy", "cbo")]


RATIOS = {
    "more on the calibration than on the search": IntervalEstimate(4.0, 2.0, 9.0),
    "more on the search than on the calibration": IntervalEstimate(0.2, 0.1, 0.6),
    "does not show whether": IntervalEstimate(2.0, 0.5, 9.0),
    "Masks that were pruned for": IntervalEstimate(2.0, NOT, NOT),  # no interval: the next finding is taken
}


@pytest.mark.parametrize("words", RATIOS)
def test_the_headline_says_no_more_than_the_interval(words: str, results: Path) -> None:
    share = IntervalEstimate(0.5, 0.4, 0.6)
    parts = dict.fromkeys(("calibration", "search", "interaction"), share)
    material = StudyData(results, "small")
    shares = Shares(None, parts, RATIOS[words], RATIOS[words], 10, 9)  # type: ignore[arg-type]
    material.__dict__["shares"] = ({"masks": shares}, None)
    top = finding.finding(material)
    assert words in top.headline
    assert len(top.numbers) == 3
    assert ("Shares are cut off at 0." in top.detail) == (not words.startswith("Masks"))
    assert [bar.text for bar in top.bars[0][1]] == ["50 percent (40 to 60)"] * 2


def test_objective_against_search_and_draw_stands_beside_calibration_against_search(results: Path) -> None:
    both, objective, draw = (
        IntervalEstimate(*of) for of in ((4.0, 2.0, 9.0), (3.0, 1.5, 7.0), (0.7, 0.2, 3.0))
    )
    material = StudyData(results, "small")
    shares = Shares(None, {}, both, both, 10, 9, "", objective, draw)  # type: ignore[arg-type]
    material.__dict__["shares"] = ({"masks": shares}, None)
    first, second = finding.known_numbers(material)[:2]
    assert (first.value, second.value) == ("4.00 : 1", "3.00 : 1")
    assert first.label.startswith("calibration to search")
    assert second.label.startswith("objective to search")
    assert first.note == "95 percent interval 2.00 to 9.00"
    assert second.note == "95 percent interval 1.50 to 7.00; objective : draw 0.70 (0.20 to 3.00)"


@pytest.mark.parametrize(
    ("low", "value"), [(45.0, "above 45.0"), (0.0, "not determined"), (8.8e44, "no ratio")]
)
def test_the_top_number_is_never_infinite_and_says_how_small_the_search_is(
    low: float, value: str, results: Path
) -> None:
    ratio = IntervalEstimate(NOT, low, float("inf"))
    parts = {"search": IntervalEstimate(0.0, 0.0, 0.01), "interaction": IntervalEstimate(0.0, 0.0, 0.02)}
    material = StudyData(results, "small")
    material.__dict__["shares"] = ({"masks": Shares(None, parts, ratio, ratio, 10, 9)}, None)  # type: ignore[arg-type]
    number = finding.known_numbers(material)[0]
    assert number.value == value
    if low < 1e9:
        assert number.note.endswith("the search explains at most 1 percent, the interaction at most 2")
    else:
        assert number.note == "all searches find the same masks"


def test_the_finding_comes_first_and_every_section_is_in_the_contents(text: str, page: Page) -> None:
    order = [
        text.index(f'id="{name}"') for name in ("finding", "variance", "certainty", "table-cells", "run")
    ]
    assert order == sorted(order)
    contents = text[text.index("<nav") : text.index("</nav>")]
    headings = re.findall(r'<section id="([^"]+)"', text)
    assert headings == [target for target in re.findall(r'href="#([^"]+)"', contents) if target != "finding"]


def test_a_study_of_several_numbers_of_samples_says_what_more_of_them_change(tmp_path: Path) -> None:
    few = Study(
        models=("smollm2",), ratios=(0.1,), objectives=("divergence",), algos=("greedy",), lost=0, broken=0
    )
    for samples in (4, 64):
        write(tmp_path, replace(few, samples=samples))
    study = StudyData(tmp_path, None)
    said = " ".join(_summary(tmp_path, None)["How certain a mask is"])
    for row in study.sizes.query("calibration == 'pydoc'").itertuples():
        assert f"{with_interval(row.corrected, row.low, row.high)} with {row.samples}" in said
    assert (
        "For smollm2 with 3 of 30 blocks removed for divergence on pydoc, masks of two draws overlap" in said
    )
    (table,) = [table for table in tables_of(study) if table.name == "sizes"]
    assert len(table.rows) == 4  # two texts, two numbers
    assert "with 64 windows of 128 tokens" in said
    assert "If 4 calibration samples are resampled" in said
    assert "If 64 calibration samples are resampled" in said
    (stability,) = [table for table in tables_of(study) if table.name == "stability"]
    assert [row[3].text for row in stability.rows] == ["4", "64"]
    one = StudyData(tmp_path, "small")
    assert "sizes" not in [table.name for table in tables_of(one)]


def test_an_entry_counts_masks_and_not_the_lines_of_a_race() -> None:
    part = score([1], [2.0], 1.0) | {"of": 2}
    race = [score([], [1.0] * 2), part, score([2], [3.0], 1.0) | {"of": 2}, score([1], [2.5] * 2, 2.0)]
    assert cells._steps(race, 1, None) == ([(2, 2.5)], 2)  # type: ignore[arg-type]


def test_an_objective_that_is_alone_is_not_the_best(tmp_path: Path) -> None:
    one = Study(models=("smollm2",), ratios=(0.1,), algos=("greedy",), seeds=(0,), lost=0, broken=0)
    write(tmp_path, replace(one, objectives=("perplexity",)))
    write(tmp_path, replace(one, ratios=(0.2,), objectives=("margin", "divergence")))
    material = StudyData(tmp_path, None)
    found = finding._objectives(material)
    assert found is not None
    costs = material.costs[(material.costs["outcome"] == "ppl") & (material.costs["k"] == 6)]
    best = costs.sort_values("mean")["objective"].iloc[0]
    assert found[0] == f"Masks that were pruned for {best} have the lowest perplexity"
    assert "1 combination of model and size" in found[1]


@pytest.mark.parametrize("kind", ["ppl", "acc"])
def test_shares_of_masks_need_no_measurement(kind: str, tmp_path: Path) -> None:
    metrics = tuple(name for name in Study().metrics if not name.startswith(kind))
    write(tmp_path, Study(models=("smollm2",), ratios=(0.1,), lost=0, broken=0, metrics=metrics))
    material = StudyData(tmp_path, "small")
    assert list(material.shares[0])[:2] == ["masks", "calibration loss"]
    assert len(material.shares[0]) == 3
    said = list(summary.claims(material))
    assert material.shares[0]["masks"].note in said[0]
    assert "measured" not in said[0]
    if kind == "acc":
        assert said[2].endswith("inconclusive; no accuracy was measured.")
