"""Ratios of perplexities: against Student's and Welch's tests of scipy on the logarithms, one value per draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.perplexity_comparisons import relative
from tests.helpers.analysis_grid import frame


def cells(objectives: int = 2, data: int = 1, draws: int = 5, algos: int = 3, seed: int = 0) -> pd.DataFrame:
    """Cells whose perplexity depends on everything; a draw has the same effect in all cells."""
    grid, rng = frame(objectives=objectives, data=data, draws=draws, algos=algos), np.random.default_rng(seed)
    draw = rng.normal(0, 0.5, draws)[grid["draw"]]
    return grid.assign(ppl=np.exp(3 + draw + rng.normal(0, 0.2, len(grid))))


def side(grid: pd.DataFrame, objective: str) -> pd.DataFrame:
    return grid[grid["objective"] == objective]


def by_draw(part: pd.DataFrame) -> pd.Series:
    """The mean logarithm of each draw, over searches."""
    return np.log(part["ppl"]).groupby(part["draw"]).mean()


def test_masks_of_the_same_samples_are_paired() -> None:
    grid = cells()
    found = relative(side(grid, "o0"), side(grid, "o1"))
    first, second = by_draw(side(grid, "o0")), by_draw(side(grid, "o1"))
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert found.value == pytest.approx(np.exp((first - second).mean()))
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert (found.draws, found.paired) == (5, True)


@pytest.mark.parametrize(
    "other", [{"calibration": "items", "samples": 64, "length": np.nan}, {"draw": [5, 6, 7, 8, 9]}]
)
def test_masks_of_other_samples_are_independent(other: dict[str, Any]) -> None:
    """Draws of other data with the same numbers, or other draws of the same data."""
    grid = cells(algos=1)
    first, second = side(grid, "o0"), side(grid, "o1").assign(**other)
    found = relative(first, second)
    logs = by_draw(first), by_draw(second)
    expected = stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    assert found.value == pytest.approx(np.exp(logs[0].mean() - logs[1].mean()))
    assert (found.low, found.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert (found.draws, found.paired) == (5, False)


def test_items_without_a_length_are_the_same_samples() -> None:
    grid = cells().assign(length=np.nan)
    assert relative(side(grid, "o0"), side(grid, "o1")).paired


def test_only_common_draws_are_compared() -> None:
    grid = cells()
    first, second = side(grid, "o0"), side(grid, "o1")
    part = relative(first[first["draw"] < 4], second[second["draw"] > 0])
    both = (1, 2, 3)
    assert part == relative(first[first["draw"].isin(both)], second[second["draw"].isin(both)])
    assert part.draws == 3


def test_a_draw_counts_once_whatever_the_number_of_its_cells() -> None:
    grid = cells()
    first, second = side(grid, "o0"), side(grid, "o1")
    often = pd.concat([first, first[first["draw"] == 0], first[first["draw"] == 0]])
    assert vars(relative(often, second)) == pytest.approx(vars(relative(first, second)))


def test_differences_between_data_are_no_noise() -> None:
    """If one objective is ten times worse on one of two texts, the ratio changes, but not its error."""
    grid = cells(data=2)
    first, second = side(grid, "o0"), side(grid, "o1")
    plain = relative(first, second)
    worse = first.assign(ppl=first["ppl"] * np.where(first["calibration"] == "text1", 10.0, 1.0))
    found = relative(worse, second)
    assert found.value == pytest.approx(plain.value * 10**0.5)
    assert found.high / found.low == pytest.approx(plain.high / plain.low)
    assert found.draws == 10


def test_draws_that_contain_each_other_give_no_interval() -> None:
    grid = cells()
    few, many = (side(grid, "o0").assign(samples=n) for n in (8, 64))
    base = pd.concat([side(grid, "o1").assign(samples=n) for n in (8, 64)])
    both = relative(pd.concat([few, many]), base)
    assert both.paired
    assert np.isnan([both.low, both.high]).all()
    nested = relative(few, side(grid, "o1").assign(samples=64))
    assert not nested.paired
    assert np.isnan(nested.low)
    assert relative(few, base).low > 0, "only the samples of one size are in common"


def test_one_draw_has_no_interval_and_equal_masks_have_an_exact_one() -> None:
    grid = cells()
    one = grid[grid["draw"] == 0]
    found = relative(side(one, "o0"), side(one, "o1"))
    assert (np.isnan(found.low), found.draws) == (True, 1)
    same = side(grid, "o0")
    assert (relative(same, same).low, relative(same, same).high) == (1.0, 1.0)
    constant = [same.assign(ppl=value, calibration=name) for value, name in ((20.0, "a"), (10.0, "b"))]
    assert vars(relative(*constant)) == pytest.approx(
        {"value": 2.0, "low": 2.0, "high": 2.0, "draws": 5, "paired": False}
    )
    assert relative(same, same.head(0)).draws == 0
