"""The table of finished cells: which settings it names."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.study import tables

settings_of = st.dictionaries(
    st.sampled_from(["seed", "dtype", "first", "margin samples"]), st.sampled_from([0, 1, None, "a"])
)


@settings(deadline=None)
@given(st.lists(settings_of, max_size=8))
def test_the_settings_that_differ_are_those_of_a_comparison_of_all_pairs(rows: list[dict[str, Any]]) -> None:
    differing = {
        name for a, b in itertools.combinations(rows, 2) for name in a.keys() & b.keys() if a[name] != b[name]
    }
    expected = [
        "".join(f" {name.rpartition(' ')[2]}={value}" for name, value in row.items() if name in differing)
        for row in rows
    ]
    assert tables.differing(rows) == expected
