from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.stats import regret
from tests.helpers.analysis_grid import frame
from tests.helpers.traces import BUDGET, score


def test_regret_is_over_all_that_any_cell_of_the_problem_scored() -> None:
    cells = frame(objectives=1, data=1, draws=2, algos=2, ks=(2,))
    cells = cells.assign(cell=list("abcd"), loss=[2.0, 1.5, 9.0, 8.0], dense_loss=1.0, standard_error=0.5)
    cells = cells.assign(dropped=[(1, 3), (2, 3), (1, 3), (2, 3)])
    traces = {"a": [score([], [1.0]), score([1], [0.1]), score([1, 2], [1.25])]}
    regrets = regret.best_known(cells, traces)
    assert list(regrets["best"]) == [1.25, 1.25, 8.0, 8.0]  # a mask of another size does not count
    assert list(regrets["relative_regret"]) == pytest.approx([3.0, 1.0, 1 / 7, 0.0])
    assert not regrets["exact"].any()


def test_regret_is_in_standard_errors_of_the_paired_difference_from_the_best_known_mask() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=4, ks=(2,))
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 20)  # samples differ much more than masks
    losses = {(1, 2): hard, (1, 3): hard + rng.normal(0.1, 0.05, 20), (2, 3): hard + rng.normal(0.2, 0.3, 20)}
    masks = [(1, 3), (2, 3), (1, 2), (4, 5)]
    means = [float(losses[mask].mean()) if mask in losses else 9.0 for mask in masks]
    cells = cells.assign(cell=list("abcd"), loss=means, dense_loss=1.0, dropped=masks, standard_error=0.5)
    traces = {cell: [score(list(mask), list(losses[mask]))] for cell, mask in zip("abc", masks, strict=False)}
    found = regret.best_known(cells, traces)["regret_se"]
    for mask, value in zip(masks[:2], found, strict=False):
        assert value == pytest.approx(stats.ttest_rel(losses[mask], losses[1, 2]).statistic)
    assert found[0] > 5, "clear, although the loss of each mask has a standard error of 0.2"
    assert found[2] == 0
    assert np.isnan(found[3]), "no losses of samples"


@pytest.mark.parametrize("samples", [[2.0], [2.0, 2.1, 2.3]])
def test_regret_has_no_errors_if_samples_cannot_be_paired(samples: list[float]) -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=2, ks=(2,))
    cells = cells.assign(cell=list("ab"), loss=[2.0, 3.0], dense_loss=1.0, dropped=[(1, 2), (1, 3)])
    weighted = score([1, 3], [*np.array(samples) + 1]) | {"loss": 3.3}  # no plain mean
    found = regret.best_known(
        cells.assign(standard_error=0.5), {"a": [score([1, 2], samples)], "b": [weighted]}
    )
    assert found["regret_se"][0] == 0
    assert np.isnan(found["regret_se"][1])
    alone = regret.best_known(
        cells.assign(standard_error=0.5), {"a": [score([1, 2], [2.0])], "b": [score([1, 3], [3.0])]}
    )
    assert np.isnan(alone["regret_se"][1]), "one sample has no error"


def test_two_cells_with_the_same_mask_have_the_same_regret_however_their_losses_were_rounded() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=3, ks=(2,))
    cells = cells.assign(cell=list("abc"), loss=[2.0, 2.002, 2.4], dense_loss=1.0, standard_error=0.5)
    cells = cells.assign(dropped=[(1, 2), (1, 2), (1, 3)])
    traces = {"a": [score([1, 2], [2.0])], "b": [score([1, 2], [2.002])], "c": [score([1, 3], [2.4])]}
    regrets = regret.best_known(cells, traces)
    assert list(regrets["best"]) == pytest.approx([2.001] * 3)
    assert list(regrets["regret"]) == pytest.approx([0.0, 0.0, 0.399])
    assert (regrets["regret"].iloc[:2] == 0).all()


def test_regret_is_exact_only_if_every_mask_was_scored() -> None:
    cells = frame(objectives=1, data=1, draws=2, algos=2, ks=(2,)).assign(algo="exhaustive", n_blocks=4)
    cells = cells.assign(cell=list("abcd"), loss=2.0, dense_loss=1.0, standard_error=0.5)
    cells = cells.assign(dropped=[(2, 3)] * 4)
    every = [score(list(mask), [2.0]) for mask in itertools.combinations(range(4), 2)]
    regrets = regret.best_known(cells, {"a": [score([], [1.0]), *every, every[0]], "c": every[:-1]})
    assert list(regrets["exact"]) == [True, True, False, False]
    fewer = regret.best_known(cells.assign(protect_first=1), {"a": [], "c": every[3:]})  # without block 0
    assert list(fewer["exact"]) == [False, False, True, True]


def test_regret_with_a_budget_is_over_masks_of_that_cost() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=2, ks=(1,))
    cells = cells.assign(cell=list("ab"), loss=[2.5, 3.0], dense_loss=1.0, standard_error=0.5)
    cells = cells.assign(n_blocks=2, unit="sublayer", budget=[BUDGET, BUDGET], dropped=[(0, 1), (1, 2)])
    every = [score(list(mask), [5.0 - sum(mask)]) for mask in itertools.combinations(range(4), 2)]
    traces = {"a": [score([], [1.0]), score([3], [0.1]), *every[1:5]]}
    regrets = regret.best_known(cells, traces)
    assert list(regrets["best"]) == [2.0, 2.0]  # of units 0 and 3; 1 and 3 cost too much
    assert not regrets["exact"].any()
    whole = regret.best_known(cells, {"b": every})
    assert whole["exact"].all()


@pytest.mark.parametrize(("unit", "exact"), [("attention", True), ("sublayer", False)])
def test_regret_with_a_budget_is_exact_if_all_masks_of_the_unit_were_scored(unit: str, exact: bool) -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=1, ks=(1,))
    cells = cells.assign(cell="a", loss=2.0, dense_loss=1.0, standard_error=0.5, n_blocks=2, unit=unit)
    cells = cells.assign(budget=[BUDGET | {"least": 2, "most": 3}], dropped=[(0, 2)])
    traces = {"a": [score([0, 2], [2.0])]}
    assert list(regret.best_known(cells, traces)["exact"]) == [
        exact
    ]  # of sub-layers, also 1 alone and 3 alone


def test_regret_relative_to_no_damage_is_nan() -> None:
    cells = frame(objectives=1, data=1, draws=1, algos=2)
    cells = cells.assign(cell=list("ab"), loss=[0.5, 0.6], dense_loss=1.0, standard_error=0.1)
    cells = cells.assign(dropped=[(1, 2, 3), (2, 3, 4)])
    regrets = regret.best_known(cells, {})
    assert regrets["relative_regret"].isna().all()
    assert list(regrets["regret"]) == pytest.approx([0.0, 0.1])
