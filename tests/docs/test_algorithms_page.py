"""docs/algorithms.md and docs/objectives.md agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pruning.config.groups import options
from pruning.core.errors import OutOfReachError
from pruning.core.mask import Space
from tests.helpers.searches import configured

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(?P<name>\w+)` \|[^|]*\| (?P<most>[\d,]+)", re.MULTILINE)


def test_the_page_states_the_bounds_of_the_searches() -> None:
    space = Space(30, 6)
    bounds = {
        row["name"]: int(row["most"].replace(",", ""))
        for row in ROW.finditer((DOCS / "algorithms.md").read_text())
    }
    algos = configured()
    assert bounds.keys() == algos.keys()
    assert bounds.pop("local_search") == 165 + 1 + 6 * 24, "its swaps have no bound"
    for name, most in bounds.items():
        if name == "exhaustive":
            with pytest.raises(OutOfReachError, match=f"{most:,} masks"):
                algos[name].evaluations(space)
        else:
            assert algos[name].evaluations(space) == most, name


@pytest.mark.parametrize("name", options("algo"))
def test_every_search_is_described_with_its_source(name: str) -> None:
    section = re.search(rf"^\*\*{name}\.\*\*(.*?)\n\n", (DOCS / "algorithms.md").read_text(), re.M | re.S)
    assert section
    assert "*Source:*" in section[1]


@pytest.mark.parametrize("name", options("objective"))
def test_every_objective_is_described_with_its_source_and_deviations(name: str) -> None:
    page = (DOCS / "objectives.md").read_text()
    section = re.search(rf"^## (?:\w+, )*{name}\b.*?\n(.*?)(?=^## )", page, re.M | re.S)
    assert section
    assert re.search(r"\bsource\b", section[1], re.I)
    assert re.search(r"deviat|decision on a silent point", section[1], re.I)
    assert "    loss = " in section[1]
