"""Filters of a command: `--only column=value`."""

from __future__ import annotations

from analysis.data.load import filter_column, merged


def test_values_that_are_given_for_one_column_several_times_are_put_together() -> None:
    given = ["objective=perplexity", "k=3", "objective=margin,perplexity"]
    assert merged(map(filter_column, given)) == {"objective": ["perplexity", "margin"], "k": ["3"]}
