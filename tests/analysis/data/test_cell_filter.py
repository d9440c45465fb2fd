"""Filters of a command: `--only column=value`."""

from __future__ import annotations

from analysis.data.cell_filter import column, merged


def test_values_that_are_given_for_one_column_several_times_are_put_together() -> None:
    given = ["objective=perplexity", "k=3", "objective=margin,perplexity"]
    assert merged(map(column, given)) == {"objective": ["perplexity", "margin"], "k": ["3"]}
