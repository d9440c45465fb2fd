"""Plausible components of one stratum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.stats import components
from analysis.stats.components import Design, borrowed, widened
from analysis.stats.grid import DRAW, labels
from tests.helpers.analysis_grid import effect, frame


def test_with_normal_draws_the_interval_of_a_mean_square_is_that_of_chi_square() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.chisquare(4, 200_000)[:, None]
    ends = np.quantile(widened(np.array([8.0]), drawn), [0.025, 0.975])
    assert ends == pytest.approx(8.0 * 4 / stats.chi2.ppf([0.975, 0.025], 4), rel=0.02)


def test_a_source_that_explains_nothing_stays_at_nothing() -> None:
    assert not widened(np.zeros(2), np.zeros((5, 2))).any()


def test_resamples_of_one_data_set_have_the_observed_mean_square_on_average() -> None:
    rng = np.random.default_rng(1)
    cells = frame(objectives=1, data=1, draws=8, algos=3)
    y = effect(cells, ["draw"], 1.0, rng) + rng.normal(size=len(cells))
    design = Design(cells)
    (moved,) = design.draws.moves([components.of_values(y)])
    weights = components.bootstrap_weights(moved.columns, 4000, 0)
    for name in ("draw (seed)", "draw x algorithm, rest"):
        added = design.added[0][name]
        drawn = components.explained(weights, moved.added_form(added))
        assert drawn.mean() == pytest.approx(added.squares(moved.observed), rel=0.05), name


def test_draws_borrow_from_the_same_cell_of_other_draws() -> None:
    rng = np.random.default_rng(2)
    cells = frame(objectives=2, data=2, draws=4, algos=3)
    cells = cells[rng.random(len(cells)) > 0.2].reset_index(drop=True)
    found, cluster = borrowed(cells, components.PANEL), labels(cells, DRAW)
    panel = labels(cells, components.PANEL)
    np.testing.assert_array_equal(panel[found.row], panel[found.donor])
    for row in range(len(cells)):
        mine = found.row == row
        same = np.flatnonzero(panel == panel[row])
        assert set(found.donor[mine]) == set(same), "four draws are fewer than the partners of a draw"
        m = len(same)
        assert found.factor[mine] == pytest.approx(np.sqrt(1 / max(m - 1, 1)))
    # One weight belongs to one pair of draws, in all cells.
    for column in np.unique(found.column):
        entries = found.column == column
        assert len(set(zip(cluster[found.row[entries]], cluster[found.donor[entries]], strict=True))) == 1


def test_many_draws_borrow_from_a_few() -> None:
    cells = frame(objectives=1, data=2, draws=30, algos=2)
    found = borrowed(cells, components.PANEL)
    assert (np.bincount(found.row) == 8).all()
    assert found.columns == 60 * 8


def test_repeats_of_a_cell_borrow_from_repeats() -> None:
    cells = frame(objectives=1, data=1, draws=3, algos=2)
    twice = cells.loc[cells.index.repeat(2)].reset_index(drop=True)
    found = borrowed(twice, components.PANEL)
    assert (np.bincount(found.row) == 3).all()
    assert (found.row % 2 == found.donor % 2).all(), "the first from the first, the second from the second"
