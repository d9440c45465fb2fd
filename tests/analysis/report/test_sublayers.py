"""The report's strips, entries and sentences for masks over sub-layers."""

from __future__ import annotations

import re

import pytest

from analysis.report import cells, finding, page_tables, summary
from analysis.report.cells import strip
from analysis.report.study_data import StudyData
from pruning.core.mask import Mask
from tests.helpers import sublayer_grid
from tests.helpers.sublayer_grid import SublayerStudy


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    folder = tmp_path_factory.mktemp("results")
    sublayer_grid.write(folder, SublayerStudy(units=("sublayer",), algos=("one_shot", "greedy"), seeds=(0,)))
    return StudyData(folder, None)


def test_a_strip_has_attention_above_and_mlps_below() -> None:
    drawn = strip(Mask.parse(3, "a0,b1"), numbered=True)
    assert 'aria-label="sub-layers a0, b1 of 6 removed"' in drawn
    assert 'viewBox="0 0 30 32"' in drawn
    gone = re.search(r'class="gone" d="([^"]*)"', drawn)
    assert gone is not None
    assert re.findall(r"M([\d.]+) ([\d.]+)h", gone[1]) == [
        ("0.75", "0.75"),
        ("10.75", "0.75"),
        ("10.75", "10.75"),
    ]
    assert drawn.count("M") == 6
    assert 'aria-label="no sub-layer removed"' in strip(Mask(3, (), "sublayer"))


def test_an_entry_names_the_sublayers_and_their_share(study: StudyData) -> None:
    (group,) = cells.groups(study)
    assert group.heading == "smollm2, 10 % of the parameters removed, pruned for perplexity"
    for entry in group.entries:
        record = study.records[entry.cell]
        assert record["status"] == "done"
        facts = dict(entry.facts)
        mask = Mask.from_json(record["mask"])
        assert facts["sub-layers removed"] == ", ".join(mask.names())
        share = 100 * record["search"]["budget"]["removed"]
        assert facts["removed"] == f"{mask}, {share:.1f} % of the parameters (10 % asked for)"
        assert facts["runner-up"].startswith(", ".join(mask.names()))
        assert entry.curve


def test_the_table_of_cells_counts_the_units_of_each_mask(study: StudyData) -> None:
    table = page_tables.cells(study)
    headings = [heading for heading, _ in table.headings]
    assert "sub-layers removed" in headings
    shown = [row[headings.index("k")].text for row in table.rows]
    assert shown == [str(len(dropped)) for dropped in study.frame["dropped"]]


def test_sentences_say_what_is_removed(study: StudyData) -> None:
    top = finding.finding(study)
    assert top.headline.startswith("Removing 10 % of the parameters multiplies perplexity by")
    assert (top.strips_of, top.squares) == (
        "smollm2, 10 % of the parameters removed, pruned for perplexity", "sub-layer",
    )  # fmt: skip
    assert any("For smollm2 with 10 % of the parameters removed" in text for text in summary.costs(study))
