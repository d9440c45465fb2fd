"""The report's tables and entries show the numbers of the statistics and of each cell."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from scipy.stats import gmean

from analysis.data.study import AskedStudy
from analysis.figures.outcome_tables import UNPRUNED
from analysis.figures.style import number
from analysis.report import cells, page_tables, summary
from analysis.report.cells import continuations, facts, strip
from analysis.report.page_tables import tables
from analysis.report.study_data import StudyData, with_interval
from analysis.stats.grid import each, masks
from pruning.core.mask import Mask
from pruning.core.records import METRIC, SHOWN
from tests.helpers.analysis_grid import ONE, SUBLAYERS, Study, write

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
    return StudyData(AskedStudy(folder, "small"))


def test_tables_show_the_numbers_of_the_statistics(study: StudyData) -> None:
    found = {table.name: table for table in tables(study)}
    for table in (*found.values(), page_tables.cells(study)):
        assert all(len(row) == len(table.headings) for row in (*table.dense, *table.rows)), table.name
    cells = study.cells.query("model == 'smollm2' and objective == 'margin' and algo == 'beam'")
    for name, metric in study.metrics.items():
        values = metric.of(cells)
        mean, dense = (gmean, number) if name == "ppl" else (np.mean, "{:.1f}".format)
        table = found[{"ppl": "perplexity", "acc": "accuracy"}[name]]
        (row,) = [row for row in table.rows if row[:2] == ("pruned for margin", "beam")]
        assert row[3].split()[0] == f"{mean(values):.1f}"
        assert table.dense[0][1::2] == [UNPRUNED, dense(metric.of(cells, "dense").mean())]


def test_tables_show_the_papers_numbers_for_its_models(tmp_path: Path) -> None:
    """For LLaMA3 without 7 of 32 blocks, tables 1 to 3 of arXiv 2604.24938 v1 have averages and seconds."""
    paper = replace(
        ONE,
        models=("llama3",),
        ratios=(7 / 32,),
        objectives=("perplexity", "margin"),
        algos=("one_shot", "greedy", "cbo"),
        metrics=("ppl/wikitext2", "ppl/c4", "ppl/lambada", "acc/piqa"),
        lost=1,
    )
    write(tmp_path, paper)
    found = {table.name: table for table in tables(StudyData(AskedStudy(tmp_path, "small")))}

    def last_column(name: str) -> list[str]:
        assert "paper" in found[name].headings[-1][0]
        return [row[-1] for row in found[name].rows]

    # The paper has no perplexity of masks for margin, and no accuracy of masks for perplexity.
    assert last_column("perplexity") == ["19.35", "19.90", "19.61", "", "", ""]
    assert last_column("accuracy") == ["", "", "", "57.99", "60.69", "59.93"]
    assert last_column("search") == ["551", "3,223", "8,173"]
    assert found["accuracy"].dense[0][-1] == "74.58"


def test_tables_of_ratios_show_the_comparisons_of_each_model(study: StudyData) -> None:
    found = {table.name: table for table in tables(study)}
    for place, model in enumerate(("gemma3_270m", "smollm2"), start=1):
        objectives, searches = found[f"objectives-{place}"], found[f"searches-{place}"]
        assert objectives.caption.endswith(f": {model}")
        rows = each(study.relative.objectives.query("model == @model"))
        for line, row in zip(objectives.rows, rows, strict=True):
            ratio = with_interval(row.value, row.low, row.high)
            ratio = "1, the reference" if row.objective == row.reference else ratio
            how = "on the same samples" if row.paired else "as independent samples"
            assert tuple(line[1:]) == (row.objective, number(row.ppl), ratio, str(row.draws), how)
        assert [heading for heading, _ in searches.headings] == ["k", "search", *STUDY.objectives]
        shown = pd.DataFrame(searches.rows).set_index(1)[[2, 3, 4]].set_axis(STUDY.objectives, axis="columns")
        for row in each(study.relative.searches.query("model == @model")):
            assert shown.loc[row.algo, row.objective] == with_interval(row.value, row.low, row.high)


def test_ratios_are_shown_if_two_draws_can_be_compared(study: StudyData, tmp_path: Path) -> None:
    assert "relative" in summary.parts(study)[0]
    write(tmp_path, replace(ONE, objectives=("divergence", "margin")))
    single = StudyData(AskedStudy(tmp_path, "small"))
    assert "relative" not in summary.parts(single)[0]
    assert not [table for table in tables(single) if table.name.startswith("objectives")]


# The entries of cells.


@pytest.fixture(scope="module")
def sublayers(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    folder = tmp_path_factory.mktemp("results")
    write(folder, replace(SUBLAYERS, units=("sublayer",), algos=("one_shot", "greedy"), seeds=(0,)))
    return StudyData(AskedStudy(folder, None))


def test_a_strip_has_attention_above_and_mlps_below() -> None:
    drawn = strip(Mask.parse(3, "a0,b1"))
    assert 'aria-label="sub-layers a0, b1 of 6 removed"' in drawn
    assert 'viewBox="0 0 30 20"' in drawn
    gone = re.search(r'class="gone" d="([^"]*)"', drawn)
    assert gone is not None
    assert re.findall(r"M([\d.]+) ([\d.]+)h8.5", gone[1]) == [("0.75", "5"), ("10.75", "5"), ("10.75", "15")]
    assert 'aria-label="no sub-layer removed"' in strip(Mask(3, (), "sublayer"))


def test_an_entry_names_the_sublayers_and_their_share(sublayers: StudyData) -> None:
    (group,) = cells.groups(sublayers)
    assert group.heading == "smollm2, 10 % of the parameters removed, pruned for perplexity"
    for entry in group.entries:
        record = sublayers.records[entry.cell]
        assert record["status"] == "done"
        known, mask = dict(entry.facts), Mask.from_json(record["mask"])
        assert known["sub-layers removed"] == ", ".join(mask.names())
        share = 100 * record["search"]["budget"]["removed"]
        assert known["removed"] == f"{mask}, {share:.1f} % of the parameters (10 % asked for)"


def test_the_table_of_cells_links_entries_and_counts_the_units_of_each_mask(sublayers: StudyData) -> None:
    table = page_tables.cells(sublayers)
    headings = [heading for heading, _ in table.headings]
    shown = [row[headings.index("k")] for row in table.rows]
    assert shown == [str(len(dropped)) for dropped in sublayers.frame["dropped"]]
    for row, cell, mask in zip(table.rows, sublayers.cells["cell"], masks(sublayers.cells), strict=True):
        assert isinstance(row[0], Markup)
        assert f'href="#cell-{cell}"' in row[0]
        assert row[headings.index("sub-layers removed")] == strip(mask)


def test_facts_name_cost_and_gain() -> None:
    heal = {"settings": {"class": "Lora"}, "tokens": 2048, "seconds": 3.2}
    record = {"heal": heal, "evaluation": {"healed": {"ppl/heldout": 20.5, "ppl/heldout/stderr": 1.0}}}
    said = [("healing", "lora, 2,048 tokens in 3 s"), ("held out, healed", "ppl/heldout 20.50 ± 1.00")]
    assert list(facts(record)) == said
    assert list(facts({"evaluation": {}})) == []


# Continuations.


def kept(results: Path, name: str, count: int = SHOWN + 3) -> str:
    numbers = range(count)
    record = {"prompts": [f"prompt {n}" for n in numbers], "texts": [f"{name} {n}" for n in numbers]}
    record["greedy"] = [[n] for n in numbers]  # type: ignore[misc]
    (results / f"{name}.continuations.json").write_text(json.dumps(record))
    return f"{name}.json"


def record(**paths: str) -> Any:
    return {"evaluation": {"records": {METRIC: paths}}}


def test_ten_prompts_with_a_text_of_each_model(tmp_path: Path) -> None:
    paths = {which: kept(tmp_path, which) for which in ("healed", "dense", "pruned")}
    rows = continuations(tmp_path, record(**paths))
    assert len(rows) == SHOWN
    texts = {"prompt": "prompt 2", "nothing removed": "dense 2", "pruned": "pruned 2", "healed": "healed 2"}
    assert list(rows[2].items()) == list(texts.items())
    (tmp_path / "pruned.continuations.json").write_text("{")
    assert list(continuations(tmp_path, record(**paths))[2]) == ["prompt", "nothing removed", "healed"]
    assert continuations(tmp_path, {"evaluation": {"records": {"ppl/a": {}}}}) == []  # type: ignore[typeddict-item]
