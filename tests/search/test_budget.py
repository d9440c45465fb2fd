from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from pruning.algo import Ask, Found, Known, Proposals
from pruning.algo.beam import Beam
from pruning.algo.cbo_hessian import CboHessian
from pruning.algo.greedy import Greedy
from pruning.algo.one_shot import OneShot
from pruning.core.errors import InputError
from pruning.core.mask import Mask, Space
from pruning.search import driver
from tests.algo.test_contract import drive, pairwise
from tests.helpers.spaces import sublayer_space

SPACE = Space(8, 3, frozenset({7}))


@pytest.mark.parametrize("limit", range(1, 25))
@pytest.mark.parametrize("kind", [Greedy, OneShot, Beam])
def test_a_search_stops_at_its_budget_with_a_mask_of_its_space(kind: type, limit: int) -> None:
    loss = pairwise(8, 3)
    whole, run = drive(kind(), SPACE, loss), drive(kind(max_evaluations=limit), SPACE, loss)
    assert len(run.asked) == min(limit, len(whole.asked))
    assert run.asked == whole.asked[:limit], "the first requests are the same"
    assert len(run.answer.dropped) == 3
    assert 7 not in run.answer.dropped
    if limit >= len(whole.asked):
        assert run == whole
    else:
        assert run.why == f"max_evaluations={limit} was reached"


def test_a_greedy_round_that_is_cut_off_ends_with_the_best_mask_scored() -> None:
    loss = pairwise(8, 1)
    asked = drive(Greedy(max_evaluations=7 + 6 + 3), SPACE, loss)
    assert asked.answer == min(asked.batches[-1], key=loss)


def test_a_search_that_scored_only_single_blocks_takes_the_cheapest() -> None:
    singles = {Mask(8, (i,)): loss for i, loss in enumerate((5.0, 1.0, 4.0, 2.0))}
    assert driver.completed(SPACE, singles).dropped == (1, 2, 3)
    assert driver.completed(SPACE, {}).dropped == (0, 1, 2)
    larger = singles | {Mask(8, (0, 2)): 9.0}
    assert driver.completed(SPACE, larger).dropped == (0, 1, 2), "the largest mask, and the cheapest block"


def test_masks_that_a_race_ruled_out_are_no_answer() -> None:
    losses = {Mask(8, (0, 1, 2)): math.inf, Mask(8, (1, 2, 3)): 4.0}
    assert driver.completed(SPACE, losses).dropped == (1, 2, 3)


def test_on_a_budget_the_largest_mask_costs_most_and_is_filled_by_rise_per_cost() -> None:
    small, space = (sublayer_space(4, ratio, None, (1, 3) * 4) for ratio in (0.25, 0.5))
    dense, mask = {space.dense: 1.0}, space.drop
    singles = {mask(u): 1 + rise for u, rise in enumerate((0.9, 0.6, 0.3, 0.3, 0.8, 0.9, 0.1, 0.9))}
    assert driver.completed(small, dense | singles).names() == ("m1", "a3")
    assert driver.completed(small, singles).names() == ("a0", "a1", "a2", "a3"), (
        "by loss, without the dense loss"
    )
    larger = dense | singles | {mask(1, 7): 9.0, mask(0, 2, 4): 1.1}
    assert driver.completed(space, larger).names() == ("m0", "a1", "b3"), "6 units of cost are more than 3"
    done = larger | {mask(0, 1, 2, 7): 8.0, mask(0, 1, 2, 5): 7.0}
    assert driver.completed(space, done) == mask(0, 1, 2, 5), "the least loss of those that meet the budget"


@pytest.mark.parametrize("limit", [0, -3])
def test_a_budget_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(InputError, match=rf"algo.max_evaluations={limit} allows no evaluation"):
        driver.check_budget(Greedy(max_evaluations=limit))


def test_the_bound_of_evaluations_respects_the_budget() -> None:
    assert driver.evaluations(Greedy(), SPACE) == 18
    assert driver.evaluations(Greedy(max_evaluations=5), SPACE) == 5


@pytest.mark.parametrize("limit", [7, 8])
def test_a_budget_spent_on_gates_ends_with_the_mask_that_the_gates_rank_best(limit: int) -> None:
    loss, one_shot = pairwise(8, 4, strength=0.1), drive(OneShot(), SPACE, pairwise(8, 4, strength=0.1))
    run = drive(CboHessian(max_evaluations=limit), SPACE, loss)
    assert len(run.asked) == limit - 7, "the gates count as the losses of the seven single removals"
    assert one_shot.answer.dropped != (0, 1, 2), "(0, 1, 2) would be the default without any information"
    assert run.answer == (run.asked[0] if run.asked else one_shot.answer)


class Staged:
    """A search that asks for all pairs on two samples, then for the best pair on all samples."""

    max_evaluations: int | None = None

    def propose(self, space: Space, rng: np.random.Generator) -> Proposals:  # noqa: ARG002
        masks = [space.drop(*pair) for pair in combinations(space.free(), 2)]
        losses = yield Ask(masks, samples=2)
        known = Known()
        yield from known.ask([masks[int(np.argmin(losses))]])
        return Found(known.best(space), "both stages were run")

    def evaluations(self, space: Space) -> int:
        return math.comb(len(space.free()), 2)


def test_a_mask_counts_once_however_many_samples_it_is_asked_on() -> None:
    algo = Staged()
    algo.max_evaluations = 21
    run = drive(algo, Space(7, 2), pairwise(7, 0))
    assert run.why == "both stages were run"


def test_known_losses_are_not_asked_for_again() -> None:
    known, masks = Known(), [SPACE.drop(i) for i in range(3)]
    asking = known.ask([masks[0], masks[1], masks[0]])
    assert list(next(asking).masks) == masks[:2]
    with pytest.raises(StopIteration) as stop:
        asking.send([2.0, 1.0])
    assert stop.value.value == [2.0, 1.0, 2.0]
    with pytest.raises(StopIteration) as stop:
        next(known.ask(masks[:2]))
    assert stop.value.value == [2.0, 1.0]
    assert known.best(Space(8, 1)) == masks[1]
