from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.scoring import FLOAT32, Estimate, Score
from pruning.objective import Loss
from pruning.search.decide import NEAR, FloatLoss, NearTies, Settler, View
from pruning.search.journal import Journal, Store, claim

S = 8
ROUNDING = (1, -1, 1, -1, 1, -1, 1, -1)  # the pattern in which rounding moves the terms of a mask
MASKS = [Mask(6, (i,)) for i in range(6)]
DENSE, ESTIMATE = Mask(6), Estimate((1.0,) * S, (0,) * S)
PLAIN = View(ESTIMATE)


class Setting:
    """Masks with given losses in half precision and in float32; every term is off by `size` through rounding."""

    def __init__(self, half: Mapping[int, float], single: Mapping[int, float], size: float) -> None:
        self.scores = [
            Score(MASKS[i], loss, tuple(single.get(i, loss) + size * sign for sign in ROUNDING), 1.0)
            for i, loss in half.items()
        ]
        self.single = {MASKS[i]: single.get(i, loss) for i, loss in half.items()}
        self.computed: list[Mask] = []
        self.reach = NEAR * size * math.sqrt(8 / 7) / math.sqrt(S)

    def settler(self, most: int = 8, journal: Journal | None = None, available: bool = True) -> Settler:
        loss = Loss(ESTIMATE, self.terms) if available else None
        settler = Settler(NearTies(most), FloatLoss(lambda: loss, journal or Journal(None, 6)), ESTIMATE)
        settler.begin(DENSE, resumed=bool(journal and journal.scores))
        self.computed.clear()
        return settler

    def terms(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, Sequence[float], float]]:
        for mask in masks:
            self.computed.append(mask)
            yield mask, [self.single.get(mask, 0.0)] * S, 1.0


def best(losses: Mapping[Mask, float], count: int) -> set[Mask]:
    return set(sorted(losses, key=losses.__getitem__)[:count])


def test_a_clear_decision_costs_one_mask_and_changes_nothing() -> None:
    setting = Setting({0: 1.0, 1: 2.0, 2: 3.0}, {}, 0.01)
    settler = setting.settler()
    assert settler.losses(setting.scores, 1, PLAIN) == {MASKS[0]: 1.0, MASKS[1]: 2.0, MASKS[2]: 3.0}
    assert setting.computed == [MASKS[0]]
    assert settler.record() == {
        "settled": 0,
        "changed": 0,
        "open": 0,
        "rounding": pytest.approx(setting.reach / NEAR),
    }


def test_the_float32_loss_is_freed_after_each_choice() -> None:
    setting, made = Setting({0: 1.0, 1: 1.01, 2: 3.0}, {0: 1.02, 1: 1.0}, 0.02), list[Loss]()

    def make() -> Loss:
        made.append(Loss(ESTIMATE, setting.terms))
        return made[-1]

    floats = FloatLoss(make, Journal(None, 6))
    settler = Settler(NearTies(), floats, ESTIMATE)
    settler.begin(DENSE, resumed=False)
    assert (len(made), "loss" in vars(floats)) == (1, False)
    settler.losses(setting.scores, 1, PLAIN)
    assert (len(made), "loss" in vars(floats)) == (2, False), "one copy serves all near masks of a choice"
    settler.end(setting.scores[1], setting.scores)
    assert "loss" not in vars(floats)


def test_float32_scores_of_other_cells_are_not_computed_again(tmp_path: Path) -> None:
    setting, made = Setting({0: 1.0, 1: 1.01, 2: 3.0}, {0: 1.02, 1: 1.0}, 0.02), list[int]()
    found = []
    for cell in ("one", "two"):
        claim(tmp_path, "key", cell)
        (tmp_path / cell).mkdir()
        journal = Journal.open(tmp_path / cell / FLOAT32, 6, ESTIMATE)
        journal.others = Store(tmp_path, "key", cell, 6, estimate=ESTIMATE, name=FLOAT32)
        found.append(setting.settler(journal=journal).losses(setting.scores, 1, PLAIN))
        made.append(len(setting.computed))
    assert found[0] == found[1]
    assert made == [2, 0]


def test_near_masks_are_put_in_the_order_of_their_float32_losses() -> None:
    setting = Setting({0: 1.0, 1: 1.01, 2: 3.0}, {0: 1.02, 1: 1.0}, 0.02)
    settler = setting.settler()
    losses = settler.losses(setting.scores, 1, PLAIN)
    assert losses == {MASKS[0]: pytest.approx(1.01), MASKS[1]: 1.01, MASKS[2]: 3.0}
    assert best(losses, 1) == {MASKS[1]}
    assert set(setting.computed) == {MASKS[0], MASKS[1]}
    record = settler.record()
    assert record is not None
    assert (record["settled"], record["changed"], record["open"]) == (1, 1, 0)


def test_losses_that_rounding_cannot_swap_are_left_alone() -> None:
    probe = Setting({0: 1.0, 1: 2.0}, {}, 0.1)
    for gap, computed in ((probe.reach * 1.01, 1), (probe.reach * 0.99, 2)):
        setting = Setting({0: 1.0, 1: 1.0 + gap}, {0: 5.0, 1: 4.0}, 0.1)
        setting.settler().losses(setting.scores, 1, PLAIN)
        assert len(setting.computed) == computed, gap


def test_two_processors_choose_the_same_masks() -> None:
    exact = {0: 1.0, 1: 1.004, 2: 1.008, 3: 1.012, 4: 1.2, 5: 1.3}
    found = []
    for shift in (0.006, -0.006):
        half = {i: loss + shift * (-1) ** i for i, loss in exact.items()}
        setting = Setting(half, exact, 0.02)
        losses = setting.settler().losses(setting.scores, 2, PLAIN)
        found.append(best(losses, 2))
        assert all(losses[MASKS[i]] >= half[i] for i in half), "no loss is lower than the mask's own"
    assert found == [{MASKS[0], MASKS[1]}] * 2


def test_too_many_near_masks_leave_the_decision_open_and_its_cost_bounded() -> None:
    setting = Setting(dict.fromkeys(range(6), 1.0), {i: 2.0 - i for i in range(6)}, 0.1)
    settler = setting.settler(most=3)
    settler.losses(setting.scores, 2, PLAIN)
    assert len(setting.computed) <= 3
    record = settler.record()
    assert record is not None
    assert record["open"] == 1


def test_a_choice_of_all_masks_or_without_float32_costs_nothing() -> None:
    setting = Setting({0: 1.0, 1: 1.0}, {}, 0.1)
    losses = {MASKS[0]: 1.0, MASKS[1]: 1.0}
    assert setting.settler().losses(setting.scores, 2, PLAIN) == losses
    off = setting.settler(most=0)
    assert off.losses(setting.scores, 1, PLAIN) == losses
    assert off.record() is None
    without = setting.settler(available=False)
    assert without.losses(setting.scores, 1, PLAIN) == losses
    assert without.record() == {"settled": 0, "changed": 0, "open": 0, "rounding": None}
    assert not setting.computed


def test_equal_losses_are_settled_too_and_equal_float32_losses_go_by_position() -> None:
    setting = Setting({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.2, 1: 1.1, 2: 1.1}, 0.02)
    assert best(setting.settler().losses(setting.scores, 1, PLAIN), 1) == {MASKS[1]}


def test_a_settled_loss_does_not_beat_a_better_mask_of_another_request() -> None:
    setting = Setting({0: 1.0, 1: 1.01, 2: 1.005}, {0: 1.02, 1: 1.0, 2: 0.99}, 0.02)
    settler = setting.settler()
    losses = settler.losses(setting.scores[:2], 1, PLAIN) | settler.losses(setting.scores[2:], 1, PLAIN)
    assert best(losses, 1) == {MASKS[2]}


@pytest.mark.parametrize(("winner", "left"), [(0, 0), (1, 1)])
def test_a_final_mask_that_could_lose_on_another_processor_is_open(winner: int, left: int) -> None:
    setting = Setting({0: 1.0, 1: 1.0, 2: 3.0}, {0: 1.0, 1: 1.001}, 0.02)
    settler = setting.settler()
    settler.end(setting.scores[winner], setting.scores)
    record = settler.record()
    assert record is not None
    assert record["open"] == left


def test_a_search_that_began_without_float32_goes_on_without_it() -> None:
    setting = Setting({0: 1.0, 1: 1.0}, {0: 1.1, 1: 1.0}, 0.1)
    loss = Loss(ESTIMATE, setting.terms)
    settler = Settler(NearTies(), FloatLoss(lambda: loss, Journal(None, 6)), ESTIMATE)
    settler.begin(DENSE, resumed=True)
    assert settler.losses(setting.scores, 1, PLAIN) == {MASKS[0]: 1.0, MASKS[1]: 1.0}
    assert not setting.computed


@pytest.mark.parametrize("available", [True, False])
def test_scores_in_the_journal_settle_a_choice_even_if_float32_is_gone(available: bool) -> None:
    setting, journal = Setting({0: 1.0, 1: 1.01}, {0: 1.02, 1: 1.0}, 0.02), Journal(None, 6)
    first = setting.settler(journal=journal).losses(setting.scores, 1, PLAIN)
    assert len(setting.computed) == 2
    later = setting.settler(journal=journal, available=available)
    assert later.losses(setting.scores, 1, PLAIN) == first
    assert not setting.computed


@pytest.mark.parametrize("most", [-1, 1])
def test_a_useless_number_of_masks_is_refused(most: int) -> None:
    with pytest.raises(InputError, match=f"^near_ties.most={most} "):
        NearTies(most).check()
