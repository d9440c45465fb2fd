"""Runs of tokens that two sets of windows share, against a comparison of every pair of windows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pruning.calibration.samples import Row, apart, shared_runs

WINDOWS = st.lists(st.tuples(st.integers(0, 300), st.integers(2, 90)), min_size=1, max_size=6)


def rows(windows: list[tuple[int, int]]) -> tuple[Row, ...]:
    """Windows (start, length) of a text in which every token is another."""
    return tuple(Row(tuple(range(start, start + length)), (1, length)) for start, length in windows)


def plain(first: tuple[Row, ...], second: tuple[Row, ...]) -> set[tuple[int, tuple[int, ...]]]:
    found = set()
    for number, a in enumerate(first):
        for b in second:
            shorter = min(len(a.input_ids), len(b.input_ids))
            length = min(32, shorter, max(20, shorter // 2))
            ends = [
                {ids[i : i + length] for i in range(len(ids) - length + 1)}
                for ids in (a.input_ids, b.input_ids)
            ]
            found |= {(number, run) for run in ends[0] & ends[1]}
    return found


@given(WINDOWS, WINDOWS)
def test_runs_are_those_of_every_pair_of_windows(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    a, b = rows(first), rows(second)
    assert {*shared_runs(a, b)} == plain(a, b)
    meeting = {number for number, _ in plain(a, b)}
    assert apart(a, b) == tuple(row for number, row in enumerate(a) if number not in meeting)


def test_a_long_window_does_not_hide_what_short_ones_share() -> None:
    short = rows([(0, 25), (100, 25)])
    assert {number for number, _ in shared_runs(short, short)} == {0, 1}
    assert {number for number, _ in shared_runs(short, (*short, *rows([(1000, 90)])))} == {0, 1}
    assert not [*shared_runs(short, rows([(200, 25)]))]
    assert apart((), short) == ()
