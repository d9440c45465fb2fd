"""Published orders of removal as fixtures: Llama-2-7B, 32 blocks, 0-based, in the order of removal.

Retyped from the authors' repositories: Shortened LLaMA (arXiv 2402.02834, by perplexity and by Taylor
scores on ten samples), ShortGPT (2403.03853).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scipy import stats

from analysis.stats.agreement import agree

N = 32
# fmt: off
PERPLEXITY = (11, 8, 24, 21, 12, 7, 9, 10, 18, 27, 14, 23, 25, 15, 20, 26,
              17, 6, 13, 28, 22, 19, 5, 29, 4, 16, 30, 3, 2, 31, 1, 0)
TAYLOR = (0, 28, 27, 25, 29, 26, 24, 23, 21, 22, 30, 20, 19, 18, 17, 14,
          16, 13, 12, 15, 31, 11, 10, 1, 9, 8, 7, 6, 5, 2, 4, 3)
# fmt: on
SHORTGPT = (27, 25, 26, 28, 29, 24, 23, 22, 21)


def ranks(order: Sequence[int]) -> list[int]:
    """The position of each block in an order."""
    return [order.index(block) for block in range(N)]


def protected(order: Sequence[int]) -> list[int]:
    """The order without the first four and the last two blocks, which Taylor+ keeps."""
    return [block for block in order if 4 <= block < N - 2]


def test_two_criteria_rank_the_blocks_of_one_model_as_if_by_chance() -> None:
    assert sorted(PERPLEXITY) == sorted(TAYLOR) == list(range(N))
    agreed = agree(ranks(PERPLEXITY), ranks(TAYLOR))
    assert round(agreed.statistic, 3) == 0.066
    squares = [(a - b) ** 2 for a, b in zip(ranks(PERPLEXITY), ranks(TAYLOR), strict=True)]
    assert agreed.statistic == pytest.approx(1 - 6 * sum(squares) / (N**3 - N))  # no ties: by definition
    assert agreed.p > 0.5
    assert agreed.low < 0 < agreed.high


def test_the_order_within_shared_blocks_is_another_question() -> None:
    """Taylor+ and ShortGPT remove the same nine blocks, in orders that agree more than by chance."""
    taylor = protected(TAYLOR)
    positions = [taylor.index(block) for block in SHORTGPT]
    agreed = agree(positions, range(9))
    assert agreed.statistic == pytest.approx(stats.spearmanr(positions, range(9)).statistic)
    assert 0.6 < agreed.statistic < 1
    assert agreed.p < 0.05
