"""Which tokens are in the part of the vocabulary."""

from __future__ import annotations

import numpy as np

from pruning.engine import head
from pruning.engine.head import _chosen


def test_the_fewest_tokens_with_most_of_the_probability_and_all_targets_are_chosen() -> None:
    probabilities = np.array([0.0, 50.0, 1.0, 48.5, 0.5, *[0.0] * 35])
    assert _chosen(probabilities, {0, 3}) == [0, 1, 3]
    assert _chosen(np.ones(40), {39}) == [*range(40 // head.MOST), 39]


def test_a_large_part_is_filled_up_with_likely_tokens() -> None:
    probabilities = np.arange(100_000.0)
    chosen = _chosen(probabilities, {0, 1, 99_999})
    count = 100_000 // head.MOST + 2
    filled = -(-count // head.MULTIPLE) * head.MULTIPLE
    assert chosen == [0, 1, *range(100_000 - filled + 2, 100_000)]
