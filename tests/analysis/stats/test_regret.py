"""Regret, gains over one-shot, objectives that add up, and what a search costs alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats import regret
from analysis.stats.regret import additive, exact_by_construction, gains
from tests.helpers.analysis_grid import frame
from tests.helpers.traces import BUDGET, score


def problem(
    draws: int, masks: Sequence[tuple[int, ...]], losses: Sequence[float], k: int = 2
) -> pd.DataFrame:
    """Cells a, b, ... of one objective, with a mask and a loss for each."""
    cells = frame(objectives=1, data=1, draws=draws, algos=len(masks) // draws, ks=(k,))
    named = cells.assign(cell=list("abcdefgh")[: len(cells)], dense_loss=1.0, standard_error=0.5)
    return named.assign(dropped=list(masks), loss=list(losses))


def test_regret_is_over_all_that_any_cell_of_the_problem_scored() -> None:
    cells = problem(2, [(1, 3), (2, 3)] * 2, [2.0, 1.5, 9.0, 8.0])
    traces = {"a": [score([], [1.0]), score([1], [0.1]), score([1, 2], [1.25])]}
    regrets = regret.best_known(cells, traces)
    assert list(regrets["best"]) == [1.25, 1.25, 8.0, 8.0]  # a mask of another size does not count
    assert list(regrets["regret"]) == pytest.approx([0.75, 0.25, 1.0, 0.0])
    assert not regrets["exact"].any()


def test_regret_is_in_standard_errors_of_the_paired_difference_from_the_best_known_mask() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(3.0, 1.0, 20)  # samples differ much more than masks
    losses = {(1, 2): hard, (1, 3): hard + rng.normal(0.1, 0.05, 20), (2, 3): hard + rng.normal(0.2, 0.3, 20)}
    masks = [(1, 3), (2, 3), (1, 2), (4, 5)]
    cells = problem(1, masks, [float(losses[mask].mean()) if mask in losses else 9.0 for mask in masks])
    traces = {cell: [score(list(mask), list(losses[mask]))] for cell, mask in zip("abc", masks, strict=False)}
    found = regret.best_known(cells, traces)["regret_se"]
    for mask, value in zip(masks[:2], found, strict=False):
        assert value == pytest.approx(stats.ttest_rel(losses[mask], losses[1, 2]).statistic)
    assert found[0] > 5, "clear, although the loss of each mask has a standard error of 0.2"
    assert found[2] == 0
    assert np.isnan(found[3]), "no losses of samples"


def test_regret_has_no_errors_if_samples_cannot_be_paired() -> None:
    cells = problem(1, [(1, 2), (1, 3)], [2.0, 3.0])
    weighted = score([1, 3], [3.0, 3.1]) | {"loss": 3.3}  # no plain mean
    for other in (weighted, score([1, 3], [3.0])):  # one sample has no error
        found = regret.best_known(cells, {"a": [score([1, 2], [2.0])], "b": [other]})
        assert found["regret_se"].tolist() == pytest.approx([0, np.nan], nan_ok=True)


def test_two_cells_with_the_same_mask_have_the_same_regret_however_their_losses_were_rounded() -> None:
    cells = problem(1, [(1, 2), (1, 2), (1, 3)], [2.0, 2.002, 2.4])
    traces = {"a": [score([1, 2], [2.0])], "b": [score([1, 2], [2.002])], "c": [score([1, 3], [2.4])]}
    regrets = regret.best_known(cells, traces)
    assert list(regrets["best"]) == pytest.approx([2.001] * 3)
    assert list(regrets["regret"]) == pytest.approx([0.0, 0.0, 0.399])
    assert (regrets["regret"].iloc[:2] == 0).all()


def test_regret_is_exact_only_if_every_mask_was_scored() -> None:
    cells = problem(2, [(2, 3)] * 4, [2.0] * 4).assign(algo="exhaustive", n_blocks=4)
    every = [score(list(mask), [2.0]) for mask in itertools.combinations(range(4), 2)]
    regrets = regret.best_known(cells, {"a": [score([], [1.0]), *every, every[0]], "c": every[:-1]})
    assert list(regrets["exact"]) == [True, True, False, False]
    fewer = regret.best_known(cells.assign(protect_first=1), {"a": [], "c": every[3:]})  # without block 0
    assert list(fewer["exact"]) == [False, False, True, True]


def test_regret_with_a_budget_is_over_masks_of_that_cost() -> None:
    cells = problem(1, [(0, 1), (1, 2)], [2.5, 3.0], k=1)
    cells = cells.assign(n_blocks=2, unit="sublayer", budget=[BUDGET, BUDGET])
    every = [score(list(mask), [5.0 - sum(mask)]) for mask in itertools.combinations(range(4), 2)]
    regrets = regret.best_known(cells, {"a": [score([], [1.0]), score([3], [0.1]), *every[1:5]]})
    assert list(regrets["best"]) == [2.0, 2.0]  # of units 0 and 3; 1 and 3 cost too much
    assert not regret.best_known(cells, {"b": every})["exact"].any()


# -- losses that add up ------------------------------------------------------------------------------------------


def test_losses_that_add_up_make_one_shot_exact() -> None:
    singles = [score([], [1.0]), *(score([i], [1.0 + i]) for i in range(4))]
    assert additive([[*singles, score([1, 2], [4.0])]])
    assert not additive([[*singles, score([1, 2], [4.1])]])
    assert additive([[*singles, score([1, 2], [4.001])]]), "bfloat16 rounds"
    assert additive([singles]) is None, "nothing to compare"
    cells = pd.DataFrame({"cell": ["a", "b"], "objective": ["sum", "other"]})
    traces = {"a": [*singles, score([1, 2], [4.0])], "b": [*singles, score([1, 2], [9.0])]}
    assert exact_by_construction(cells, traces) == {"sum"}


# -- gains over one-shot -----------------------------------------------------------------------------------------


def two_draws() -> tuple[pd.DataFrame, dict[str, Any]]:
    """Two draws of one problem. One-shot's mask is worse by about 0.1, with losses that vary by 1."""
    masks = {"one_shot": (0, 1, 2), "beam": (0, 1, 3)}
    rng, traces, losses = np.random.default_rng(0), {}, []
    for i, (cell, mask) in enumerate(zip("abcd", [*masks.values()] * 2, strict=True)):
        hard = np.random.default_rng(i // 2).normal(3.0, 1.0, 30)
        worse = hard + rng.normal(0.1, 0.05, 30)
        traces[cell] = [score(list(mask), list(hard if i % 2 else worse))]
        losses.append(float(np.mean(hard if i % 2 else worse)))
    cells = problem(2, [*masks.values()] * 2, losses, k=3).assign(budget=None)
    return cells.assign(algo=[*masks] * 2), traces


def test_gains_are_paired_on_the_same_samples() -> None:
    cells, traces = two_draws()
    found = gains(cells, traces)
    assert len(found) == 2
    for cell, row in zip(("ab", "cd"), found.itertuples(), strict=True):
        first, second = (np.array(traces[one][0]["samples"]) for one in cell)
        interval = stats.ttest_rel(first, second).confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        assert row.low > 0, "clear, although a loss has a standard error of 0.2"
        assert row.relative == pytest.approx((first - second).mean() / (first.mean() - 1.0))


# -- what a search costs alone does not depend on which cell computed a score that several asked for -------------

SECONDS = {(): 4.0, (0,): 2.0, (1,): 3.0, (0, 1): 1.0, (0, 2): 1.5}
ASKED = {"first": [(), (0,), (1,)], "second": [(), (0,), (1,), (0, 1), (0, 2), (0, 2)]}


def ran(order: Sequence[str], own: float = 0.25) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cells that ran in this order and share their scores, with their journals. Each computes for `own` seconds."""
    known = set[tuple[int, ...]]()
    rows, traces = [], {}
    for cell in order:
        trace = []
        for mask in ASKED[cell]:
            paid = 0.0 if mask in known else SECONDS[mask]
            trace.append({"dropped": list(mask), "samples": [1.0, 1.0], "seconds": paid})
            known.add(mask)
        traces[cell] = trace
        spent = sum(score["seconds"] for score in trace)
        rows.append({"cell": cell, "model": "m", "k": len(rows), "seconds": spent + own})
    cells = pd.DataFrame(rows).assign(n_blocks=4, n_units=4, block_forwards=1.0, block_forwards_alone=1.0)
    shared = {"objective": "o", "calibration": "c", "samples": 2, "length": 8, "draw": 0}
    return cells.assign(**shared), traces


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_the_order_of_the_cells_does_not_matter(order: tuple[str, str]) -> None:
    cells, traces = ran(order)
    alone = regret.seconds_alone(cells, traces).set_axis(cells["cell"]).to_dict()
    assert alone == pytest.approx({"first": 9.25, "second": 11.75})
    assert cells.set_index("cell")["seconds"].to_dict() != alone
    apart = regret.seconds_alone(cells.assign(draw=[0, 1]), traces).set_axis(cells["cell"]).to_dict()
    assert apart != pytest.approx(alone), "scores of other draws are not shared"


def test_a_score_that_another_study_computed_costs_the_mean_of_the_others() -> None:
    cells, traces = ran(["first"])
    traces["first"][1]["seconds"] = 0.0
    cells["seconds"] = 4 + 3 + 0.25
    assert list(regret.seconds_alone(cells, traces)) == pytest.approx([4 + 3 + 0.25 + (4 + 3) / 2])


def test_a_criterion_costs_one_pass_however_many_masks_are_asked_for() -> None:
    cells, traces = ran(["first", "second"])
    for trace in traces.values():
        for line in trace[1:]:
            line["seconds"] = 0.0
        trace[0]["seconds"] = 0.5
    cells = cells.assign(block_forwards=[4.0, 4.0], block_forwards_alone=0.0, seconds=[0.6, 0.7])
    assert list(regret.seconds_alone(cells, traces)) == pytest.approx([0.6, 0.7])


def test_masks_on_a_part_of_the_samples_cost_their_part() -> None:
    cells, traces = ran(["second"])
    race = traces["second"]
    part = {"dropped": [1], "samples": [1.0], "seconds": 1.5, "of": 2}
    race[2] = part  # and not the 3 seconds of both samples
    # Two lines of one mask: a part, then all samples with the seconds of both.
    race[5:] = [part | {"dropped": [0, 2], "seconds": 0.75}, race[4]]
    cells = cells.assign(seconds=4 + 2 + 1.5 + 1 + 1.5 + 0.25)
    assert list(regret.seconds_alone(cells, traces)) == pytest.approx([4 + 2 + 1.5 + 1 + 1.5 + 0.25])
