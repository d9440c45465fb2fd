from __future__ import annotations

import itertools

import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.objective import _criteria
from pruning.objective.block_influence import BlockInfluence
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, samples, scores
from tests.helpers.rows import language_model

ALL = [Mask(N_BLOCKS, d) for k in range(N_BLOCKS + 1) for d in itertools.combinations(range(N_BLOCKS), k)]


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [((), []), ((3,), [(3, 4)]), ((0, 1, 2), [(0, 3)]), ((0, 2, 3, 5), [(0, 1), (2, 4), (5, 6)])],
)
def test_runs_are_maximal(dropped: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    assert _criteria.runs(Mask(N_BLOCKS, dropped)) == expected


@pytest.mark.parametrize("mask", ALL)
def test_runs_cover_a_mask_and_touch_nothing_else(mask: Mask) -> None:
    covered = [i for start, stop in _criteria.runs(mask) for i in range(start, stop)]
    assert tuple(covered) == mask.dropped


def test_by_block_a_loss_is_additive_and_by_run_it_is_not() -> None:
    module, data = model(), samples("text")
    block = scores(bound(BlockInfluence(), module, data), ALL)
    run = scores(bound(BlockInfluence(by="run"), module, data), ALL)
    for mask in ALL:
        single = sum(np.array(block[Mask(N_BLOCKS, (i,))].samples) for i in mask.dropped)
        np.testing.assert_allclose(block[mask].samples, single, atol=1e-12)
        if all(stop - start == 1 for start, stop in _criteria.runs(mask)):
            np.testing.assert_allclose(run[mask].samples, block[mask].samples, atol=1e-12)
    joined = Mask(N_BLOCKS, (2, 3))
    assert abs(run[joined].loss - block[joined].loss) > 1e-3


def test_the_distance_receives_the_earlier_state_first() -> None:
    data, module = samples("text", 2), model()
    loss = _criteria.between_states(
        Forward(language_model(module)), data, lambda a, b: float(b.norm() - a.norm()), "run"
    )
    mask = Mask(N_BLOCKS, tuple(range(N_BLOCKS)))
    (score,) = loss([mask])
    assert score.loss > 0, "the norm of the state grows from block to block"


def test_one_dense_pass_is_made_for_all_masks_when_the_first_is_asked_for() -> None:
    forward = Forward(language_model(model()))
    loss = BlockInfluence().bind(forward, samples("text"))
    assert forward.cost.block_forwards == 0
    scores(loss, ALL[:5])
    scores(loss, ALL[5:])
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS)


def test_scores_of_blocks_are_computed_once() -> None:
    calls = []

    def table(unit: str) -> np.ndarray:
        calls.append(1)
        return np.arange(12.0).reshape(2, 6)

    loss = _criteria.additive(samples("text", 2), table)
    assert not calls
    results = scores(loss, [Mask(6), Mask(6, (1, 4)), Mask(6, (5,))])
    assert [score.samples for score in results.values()] == [(0.0, 0.0), (5.0, 17.0), (5.0, 11.0)]
    assert len(calls) == 1


def test_an_item_is_the_mean_of_its_choices() -> None:
    data = samples("items", 3)
    rows = np.arange(float(len(data.rows)))
    means = _criteria.by_sample(data, rows)
    remaining = iter(rows)
    assert means.tolist() == [np.mean([next(remaining) for _ in unit]) for unit in data.units]


def test_an_unknown_by_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown objective.by 'runs'. Did you mean run"):
        BlockInfluence(by="runs")
