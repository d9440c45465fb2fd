"""Rows, samples, draws, and the runs of tokens that two sets of windows share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.calibration.samples import Row, Samples, apart, drawn, shared_runs
from pruning.calibration.text import interleaved
from pruning.core.errors import InputError
from pruning.core.scoring import Estimate

ITEM_ROWS = (
    Row((1, 2, 3, 4), (2, 4), 0, 0, False),
    Row((1, 2, 5), (2, 3), 0, 1, True),
    Row((7, 8), (1, 2), 1, 0, True),
    Row((7, 9, 9, 9), (1, 4), 1, 1, False),
    Row((7, 6), (1, 2), 1, 2, False),
)
ITEMS = Samples("items", "i", ITEM_ROWS, 0)


def text_samples(*rows: range) -> Samples:
    return Samples("text", "t", tuple(Row(tuple(row), (1, len(row))) for row in rows), 0)


TEXT = text_samples(range(8), range(9), range(7))


def both_samples() -> Samples:
    units = interleaved(TEXT.units, ITEMS.units)
    return Samples("both", "b", tuple(row for unit in units for row in unit), 0, frozenset("ab"))


@pytest.mark.parametrize("span", [(0, 2), (2, 2), (1, 4)])
def test_a_row_has_tokens_to_score_and_one_before_them(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"span \({span[0]}, {span[1]}\) .* 3 "):
        Row((4, 5, 6), span)


def test_the_digest_is_that_of_the_saved_file_and_never_changes(tmp_path: Path) -> None:
    samples = Samples("text", "t", (Row((1, 2, 3), (1, 3)),), 0)
    line = b'{"input_ids": [1, 2, 3], "span": [1, 3]}\n'
    assert samples.sha256 == hashlib.sha256(line).hexdigest()
    path = samples.save(tmp_path / "calibration")
    assert path == tmp_path / "calibration" / f"{samples.sha256}.jsonl"
    assert path.read_bytes() == line
    before = path.stat()
    assert samples.save(path.parent).stat().st_mtime_ns == before.st_mtime_ns
    item = json.loads(ITEMS.save(tmp_path).read_text().splitlines()[1])
    assert item == {"input_ids": [1, 2, 5], "span": [2, 3], "item": 0, "choice": 1, "right": True}
    assert Samples("text", "other", samples.rows, 7).sha256 == samples.sha256
    for row in (Row((1, 2, 4), (1, 3)), Row((1, 2, 3), (2, 3)), Row((1, 2, 3), (1, 3), 0, 0, True)):
        assert replace(samples, rows=(row,)).sha256 != samples.sha256


def test_a_window_is_a_sample_and_an_item_is_all_its_choices() -> None:
    text = text_samples(range(8), range(8), range(7))
    assert text.units == tuple((row,) for row in text.rows), "even if two windows are equal"
    assert ITEMS.units == (ITEM_ROWS[:2], ITEM_ROWS[2:])
    assert [unit[0].item for unit in both_samples().units] == [None, 0, None, 1, None]
    assert [(s.count, s.length) for s in (ITEMS, TEXT, both_samples())] == [(2, 4), (3, 9), (5, 9)]


def test_answers_are_normalised_by_their_own_length() -> None:
    answers = list(ITEMS.answers([-4.0, -3.0, -1.0, -6.0, -5.0]))
    assert answers == [([-2.0, -3.0], 1), ([-1.0, -2.0, -5.0], 0)]
    assert both_samples().per_unit([1, 2, 3, 4, 5, 6, 7, 8]) == [[1], [2, 3], [4], [5, 6, 7], [8]]
    with pytest.raises(ValueError):
        list(ITEMS.answers([0.0] * 4))


def test_windows_weigh_by_their_tokens_and_items_alike() -> None:
    assert TEXT.estimate() == Estimate((7.0, 8.0, 6.0), (0, 0, 0))
    assert ITEMS.estimate() == Estimate((1.0, 1.0), (0, 0))
    mixed = both_samples().estimate((0.25, 0.75))
    assert mixed == Estimate((7.0, 1.0, 8.0, 1.0, 6.0), (0, 1, 0, 1, 0), (0.25, 0.75))


def test_parts_and_kinds_put_together_are_the_whole() -> None:
    both = both_samples()
    for samples in (TEXT, ITEMS, both):
        for cut in range(samples.count + 1):
            head, tail = samples.part(0, cut), samples.part(cut, samples.count)
            assert head.units + tail.units == samples.units
            assert (head.kind, head.source, head.seed) == (samples.kind, samples.source, samples.seed)
        assert samples.part(0, samples.count).sha256 == samples.sha256
    assert (both.only("items").rows, both.only("text").rows) == (ITEM_ROWS, TEXT.rows)
    assert (both.only("text").kind, both.only("items").kind) == ("text", "items")


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_beginning_of_both_has_both_in_proportion(windows: int, items: int) -> None:
    text = [(Row((1, 2), (1, 2)),)] * windows
    units = interleaved(text, [(Row((1, 2), (1, 2), n, 0, True),) for n in range(items)])
    assert [unit[0].item for unit in units if unit[0].item is not None] == list(range(items))
    for n in range(2, len(units) + 1):
        first = sum(unit[0].item is None for unit in units[:n])
        assert 1 <= first < n
        assert abs(first - n * windows / (windows + items)) <= 1


def unnumbered(samples: Samples) -> set[tuple[tuple[int, ...], ...]]:
    return {tuple(row.input_ids for row in unit) for unit in samples.units}


def test_shuffled_samples_are_the_same_in_a_random_order_from_the_seed() -> None:
    texts = tuple((Row((i, i + 1), (1, 2)),) for i in range(40))
    items = tuple(tuple(Row((i, c), (1, 2), i, c, c == i % 2) for c in (5, 6)) for i in range(20))
    both = Samples("both", "b", tuple(row for unit in interleaved(texts, items) for row in unit), 3)
    shuffled = both.shuffled()
    assert unnumbered(shuffled) == unnumbered(both)
    assert shuffled.units != both.units
    assert both.shuffled().sha256 == shuffled.sha256
    assert replace(both, seed=4).shuffled().rows != shuffled.rows
    assert [unit[0].item for unit in shuffled.units] == [unit[0].item for unit in both.units], "renumbered"
    first = [row.input_ids[0] for row in shuffled.only("text").rows]
    assert abs(sum(first[:20]) / 20 - 19.5) < 6, "the first half differs from the first half of the source"
    assert all(row.right == (row.choice == row.input_ids[0] % 2) for row in shuffled.only("items").rows)
    orders = np.random.default_rng(3)
    assert first == orders.permutation(40).tolist(), "windows first, then items, from one generator"
    assert [u[0].input_ids[0] for u in shuffled.only("items").units] == orders.permutation(20).tolist()


# Draws.


def test_draws_are_those_of_the_seed_and_disjoint_ones_share_nothing() -> None:
    expected = np.sort(np.random.default_rng(5).choice(14, size=4, replace=False)).tolist()
    assert drawn(14, 4, 5, False, "calibration", "") == expected
    draws = [drawn(14, 4, seed, True, "calibration", "") for seed in range(3)]
    assert [len(draw) for draw in draws] == [4, 4, 4]
    assert all(set(a).isdisjoint(b) for a, b in combinations(draws, 2))
    assert draws[0] != [0, 1, 2, 3], "windows next to each other, which are of the same document"
    with pytest.raises(InputError, match=r"calibration\.seed=3 .* 14 .*0 to 2"):
        drawn(14, 4, 3, True, "calibration", "the pool has 14 windows")


# What two sets of samples share.

WINDOWS = st.lists(st.tuples(st.integers(0, 300), st.integers(2, 90)), min_size=1, max_size=6)


def rows(windows: list[tuple[int, int]]) -> tuple[Row, ...]:
    """Windows (start, length) of a text in which every token is another."""
    return tuple(Row(tuple(range(start, start + length)), (1, length)) for start, length in windows)


def plain(first: tuple[Row, ...], second: tuple[Row, ...]) -> set[tuple[int, tuple[int, ...]]]:
    """The shared runs by a comparison of every pair of windows."""
    found = set()
    for number, a in enumerate(first):
        for b in second:
            shorter = min(len(a.input_ids), len(b.input_ids))
            length = min(32, shorter, max(20, shorter // 2))
            ends = [
                {i[n : n + length] for n in range(len(i) - length + 1)} for i in (a.input_ids, b.input_ids)
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


@pytest.mark.parametrize(("start", "shared"), [(8, 32), (39, 1), (40, 0), (1000, 0)])
def test_shared_text_is_counted_in_runs_at_any_position(start: int, shared: int) -> None:
    a, b = text_samples(range(71), range(500, 564)), text_samples(range(start, start + 64))
    assert a.shared(b) == b.shared(a) == shared


def test_each_kind_shares_with_its_own_kind() -> None:
    text, keyed = text_samples(range(64)), replace(ITEMS, keys=frozenset("bc"))
    assert replace(ITEMS, keys=frozenset("abc")).shared(replace(ITEMS, keys=frozenset("bcd"))) == 2
    same_tokens = Samples("items", "i", (Row(tuple(range(64)), (1, 2), 0, 0, True),), 0)
    assert text.shared(same_tokens) == same_tokens.shared(text) == 0
    assert both_samples().shared(keyed) == keyed.shared(both_samples()) == 1
    long = Samples("both", "b", (*text.rows, *ITEM_ROWS), 0, frozenset("a"))
    assert long.shared(text) == text.shared(long) == text.shared(text) > 0
    assert long.shared(long) == text.shared(text) + 1
    assert long.shared(text_samples(range(500, 564))) == 0
