"""The page on the results folder has every key of every file, with the sentence that the types have."""

from __future__ import annotations

from docs.describe_files import FILES, PAGE, filled, keys
from docs.marked_tables import BLOCK
from pruning.core.result import DoneResult


def test_the_tables_are_those_of_the_types() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {match["name"] for match in BLOCK.finditer(page)} == set(FILES)
    assert filled(page) == page, "the page is out of date: run `make describe`"


def test_nested_keys_and_optional_ones_are_described() -> None:
    table = dict(keys(DoneResult))
    assert table["mask.dropped"].startswith("The removed blocks, sorted, counted from 0.")
    assert table["margins.runner_up.difference"].startswith("Mean difference of the two losses")
    assert table["search.block_forwards"].endswith("May be absent.")
