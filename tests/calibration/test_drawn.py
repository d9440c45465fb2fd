"""Draws of windows and items, with and without overlap."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pruning.calibration.samples import Drawn
from pruning.calibration.text import Mixed, Text
from pruning.core.errors import InputError


def test_disjoint_draws_share_nothing_and_use_the_whole_pool() -> None:
    draws = [Drawn(4, seed, disjoint=True).of(14, "the pool has 14 windows") for seed in range(3)]
    assert [len(draw) for draw in draws] == [4, 4, 4]
    assert all(set(a).isdisjoint(b) for a, b in combinations(draws, 2))
    assert draws[0] != [0, 1, 2, 3], "windows next to each other, which are of the same document"


def test_other_draws_are_as_before() -> None:
    expected = np.sort(np.random.default_rng(5).choice(14, size=4, replace=False)).tolist()
    assert Drawn(4, 5).of(14, "") == expected


def test_a_seed_beyond_the_pool_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"calibration\.seed=3 is too high.*has 14 windows, enough for 3 .*seeds are 0 to 2"
    ):
        Drawn(4, 3, disjoint=True).of(14, "the pool has 14 windows")


def test_a_stream_cannot_be_disjoint() -> None:
    with pytest.raises(InputError, match=r"calibration\.stream=false, or calibration\.disjoint=false"):
        Text("hub", 4, 8, 0, path="allenai/c4", stream=True, disjoint=True)


def test_both_texts_of_a_mixed_draw_are_disjoint(tokenizer: object) -> None:
    text = Text("pydoc", 1, 16, 0)

    def windows(seed: int) -> set[tuple[int, ...]]:
        second = Text("pydoc", 1, 16, 0, part="heldout")
        rows = Mixed(text, second, 64, 16, seed, disjoint=True).draw(tokenizer).rows
        return {tuple(row.input_ids) for row in rows}

    assert len(windows(0)) == 64
    assert windows(0).isdisjoint(windows(1))
