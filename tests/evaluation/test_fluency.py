"""Numbers about generated tokens, by hand."""

from __future__ import annotations

import pytest

from pruning.evaluation.generation import repeated, same_start


def test_the_share_of_repeated_runs() -> None:
    assert repeated([1, 2, 3, 4, 5, 6]) == 0
    assert repeated([7] * 8) == pytest.approx(4 / 5)  # five runs of four, one of them new
    assert repeated([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(3 / 5)
    assert repeated([1, 2, 3]) == 0, "there is no run of four"


def test_the_share_before_the_first_difference() -> None:
    assert same_start([5, 6, 9, 8], [5, 6, 7, 8]) == 0.5
    assert same_start([5, 6], [5, 6]) == 1
    assert same_start([5], [5, 6, 7, 8]) == 0.25, "a text that ends early is not the same"
    assert same_start([5, 6, 7], [5, 6]) == 1
    assert same_start([4, 6], [5, 6]) == 0
