"""What docs/algorithms.md and docs/objectives.md say can be told from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pruning.config.groups import options
from pruning.core.errors import OutOfReachError
from pruning.core.mask import Space
from tests.algo.test_contract import configured

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(?P<name>\w+)` \|[^|]*\| (?P<most>[\d,]+)", re.MULTILINE)


def test_the_costs_of_the_page_are_those_that_searches_state() -> None:
    space = Space(30, 6)
    told = {
        row["name"]: int(row["most"].replace(",", ""))
        for row in ROW.finditer((DOCS / "algorithms.md").read_text())
    }
    algos = configured()
    assert told.keys() == algos.keys()
    assert told.pop("local_search") == 165 + 1 + 6 * 24, "there is no bound on its swaps"
    for name, most in told.items():
        if name == "exhaustive":
            with pytest.raises(OutOfReachError, match=f"{most:,} masks"):
                algos[name].evaluations(space)
        else:
            assert algos[name].evaluations(space) == most, name


@pytest.mark.parametrize("name", options("algo"))
def test_every_search_is_described_with_its_source(name: str) -> None:
    found = re.search(rf"^\*\*{name}\.\*\*(.*?)\n\n", (DOCS / "algorithms.md").read_text(), re.M | re.S)
    assert found
    assert "*Source:*" in found[1]


@pytest.mark.parametrize("name", options("objective"))
def test_every_objective_is_described_with_its_source_and_where_it_deviates(name: str) -> None:
    page = (DOCS / "objectives.md").read_text()
    found = re.search(rf"^## (?:\w+, )*{name}\b.*?\n(.*?)(?=^## )", page, re.M | re.S)
    assert found
    assert re.search(r"\bsource\b", found[1], re.I)
    assert re.search(r"deviat|decision on a silent point", found[1], re.I)
    assert "    loss = " in found[1]
