"""The tables of the page on the results folder have every key, with the sentence that the types have."""

from __future__ import annotations

from docs.described import keys
from pruning.core.records import DoneResult


def test_nested_keys_and_optional_ones_are_described() -> None:
    table = dict(keys(DoneResult))
    assert table["mask.dropped"].startswith("The removed blocks, sorted, counted from 0.")
    assert table["margins.runner_up.difference"].startswith("Mean difference of the two losses")
    assert table["search.block_forwards"].endswith("May be absent.")
