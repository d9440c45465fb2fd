"""The report's entries: drawings of masks and losses, facts of a cell, continuations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from analysis.data.study import AskedStudy
from analysis.report import cells, page_tables
from analysis.report.cells import continuations, facts, strip
from analysis.report.study_data import StudyData
from analysis.stats.grid import masks
from pruning.core.mask import Mask
from pruning.core.records import METRIC, SHOWN
from tests.helpers.analysis_grid import SUBLAYERS, write


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
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


def test_an_entry_names_the_sublayers_and_their_share(study: StudyData) -> None:
    (group,) = cells.groups(study)
    assert group.heading == "smollm2, 10 % of the parameters removed, pruned for perplexity"
    for entry in group.entries:
        record = study.records[entry.cell]
        assert record["status"] == "done"
        known, mask = dict(entry.facts), Mask.from_json(record["mask"])
        assert known["sub-layers removed"] == ", ".join(mask.names())
        share = 100 * record["search"]["budget"]["removed"]
        assert known["removed"] == f"{mask}, {share:.1f} % of the parameters (10 % asked for)"


def test_the_table_of_cells_links_entries_and_counts_the_units_of_each_mask(study: StudyData) -> None:
    table = page_tables.cells(study)
    headings = [heading for heading, _ in table.headings]
    shown = [row[headings.index("k")] for row in table.rows]
    assert shown == [str(len(dropped)) for dropped in study.frame["dropped"]]
    for row, cell, mask in zip(table.rows, study.cells["cell"], masks(study.cells), strict=True):
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
