"""The report's ratios of perplexities have intervals, and are those of the logarithms, draw by draw."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.report import page as report_page
from analysis.report.cells import Table
from analysis.report.page_tables import tables
from analysis.report.study_data import StudyData, with_interval
from analysis.report.summary import HEADING, costs, parts, sentences
from tests.helpers.analysis_grid import ONE, Study, write

STUDY = Study(
    ratios=(0.2,),
    objectives=("divergence", "block_influence", "margin"),
    algos=("one_shot", "greedy", "beam"),
    lost=0,
    broken=0,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """Two models, and three objectives, of which two read the same texts and the margin reads items."""
    folder = tmp_path_factory.mktemp("results")
    write(folder, STUDY)
    return StudyData(folder, "small")


def logs(study: StudyData, model: str) -> pd.DataFrame:
    """The cells of a model, with the logarithm of perplexity."""
    cells = study.cells[study.cells["model"] == model]
    return cells.assign(log=np.log(cells["pruned/ppl/heldout"].astype(float)))


def texts(table: Table) -> list[list[str]]:
    return [[str(value.text) for value in row] for row in table.rows]


def named(study: StudyData, name: str) -> list[Table]:
    return [table for table in tables(study) if table.name.startswith(name + "-")]


def test_each_model_has_a_table_of_objectives_with_intervals(study: StudyData) -> None:
    found = named(study, "objectives")
    assert [table.caption.rpartition(": ")[2] for table in found] == ["gemma3_270m", "smollm2"]
    for table, model in zip(found, ("gemma3_270m", "smollm2"), strict=True):
        cells = logs(study, model)
        means = cells.groupby(["objective", "calibration", "draw"])["log"].mean()
        rows = {row[1]: row for row in texts(table)}
        assert rows["divergence"][3:] == ["1, the reference", "6", "on the same samples"]
        apart = (means["block_influence"] - means["divergence"]).to_numpy()
        expected = with_interval(*np.exp([apart.mean(), *jackknifed(apart)]))
        assert rows["block_influence"][3:] == [expected, "6", "on the same samples"]
        assert rows["margin"][3].startswith(
            with_interval(np.exp(means["margin"].mean() - means["divergence"].mean()), 0, 0).partition(" ")[0]
        )
        assert rows["margin"][4:] == ["3", "as independent samples"]


def jackknifed(apart: np.ndarray) -> tuple[float, float]:
    """Ends over two texts of three draws each, as docs/statistics.md says."""
    error = np.sqrt((apart.reshape(2, 3).var(axis=1, ddof=1) / 3).sum()) / 2  # of the mean of two means
    half = float(stats.t.ppf(0.975, 4) * error)
    return float(apart.mean() - half), float(apart.mean() + half)


def test_searches_are_compared_with_one_shot(study: StudyData) -> None:
    (table,) = [table for table in named(study, "searches") if table.caption.endswith("smollm2")]
    assert [heading for heading, _ in table.headings] == ["k", "search", *STUDY.objectives]
    by = (
        logs(study, "smollm2")
        .query("objective == 'margin'")
        .pivot(index="draw", columns="algo", values="log")
    )
    expected = stats.ttest_rel(by["beam"], by["one_shot"]).confidence_interval()
    value = np.exp((by["beam"] - by["one_shot"]).mean())
    rows = {row[1]: row for row in texts(table)}
    assert rows["beam"][4] == with_interval(value, np.exp(expected.low), np.exp(expected.high))
    assert set(rows) == {"greedy", "beam"}


def test_sentences_have_intervals_and_costs_have_no_ratio(study: StudyData) -> None:
    said = list(sentences(study))
    assert sum("relative to divergence" in text for text in said) == 2
    for text in said[1:]:
        assert len(re.findall(r"\d \([\d.,]+ to [\d.,]+\)", text)) >= 2
    written = " ".join(costs(study))
    assert "times as much" not in written
    assert "percent more" not in written


def test_the_section_is_there_if_two_draws_can_be_compared(study: StudyData, tmp_path: Path) -> None:
    text = report_page.page(study)
    section = text[text.index('<section id="relative"') :]
    assert [name in section for name in ("objectives-1", "objectives-2", "searches-1")] == [True] * 3
    write(tmp_path, replace(ONE, objectives=("divergence", "margin")))
    single = StudyData(tmp_path, "small")
    assert HEADING not in [part.heading for part in parts(single)]
    assert not named(single, "objectives")


def test_draws_of_several_sizes_have_no_interval_and_the_page_says_why(tmp_path: Path) -> None:
    for samples in (8, 16):
        write(tmp_path, replace(STUDY, models=("smollm2",), objectives=("divergence",), samples=samples))
    study = StudyData(tmp_path, None)
    ((_, _, ratio), *_) = texts(*named(study, "searches"))
    assert ratio.endswith("(no interval)")
    assert "--only samples=N" in list(sentences(study))[-1]


def test_overlaps_of_each_objective_are_in_a_table(study: StudyData) -> None:
    (table,) = [table for table in tables(study) if table.name == "overlap_by_objective"]
    rows = [row for row in texts(table) if row[:4] == ["draws", "smollm2", "6", "margin"]]
    pairs = study.overlaps.query("comparison == 'draws' and model == 'smollm2' and objective == 'margin'")
    assert [row[4] for row in rows] == [str(len(pairs))] == ["9"]
    assert rows[0][7] == f"{pairs['corrected'].mean():.2f}"
    assert {row[0] for row in texts(table)} == {"algorithms", "draws", "calibration data"}
