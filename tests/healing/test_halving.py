"""Successive halving: who stays, what each round costs, and what is refused."""

from __future__ import annotations

import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.healing.heal_settings import Trial, budgets, halve
from tests.healing.worlds import lora

MASKS = [Mask(9, (i,)) for i in range(8)]


def test_the_better_half_stays_in_each_round_and_the_best_of_the_last_wins() -> None:
    # Mask 6 starts worst but one and falls fastest; mask 0 starts best and hardly falls.
    speed = [0.0, 0.1, 0.2, 0.1, 0.2, 0.3, 0.9, 0.4]
    asked: list[tuple[int, int, int]] = []
    ended: list[list[int]] = []

    def trial(mask: Mask, tokens: int, before: int) -> Trial:
        number = mask.dropped[0]
        asked.append((number, tokens, before))
        return Trial(mask, tokens, 3.0 + 0.1 * number - speed[number] * tokens / 100, tokens - before, 1.0)

    found = halve(MASKS, 100, trial, lambda left: ended.append([mask.dropped[0] for mask in left]))
    assert asked[:8] == [(i, 100, 0) for i in range(8)]
    assert asked[8:] == [(i, 200, 100) for i in (6, 0, 1, 2)] + [(i, 400, 200) for i in (6, 2)]
    assert ended == [[6, 0, 1, 2], [6, 2], [6]]
    assert found.winner == MASKS[6]
    assert sum(one.trained for one in found.trials) == 8 * 100 + 4 * 100 + 2 * 200


def test_of_equal_masks_the_search_s_choice_wins() -> None:
    found = halve(MASKS[:3], 10, lambda mask, tokens, _: Trial(mask, tokens, 3.0, 1, 0.0), lambda _: None)
    assert [len(one) for one in found.rounds] == [3, 2]
    assert found.winner == MASKS[0]


@pytest.mark.parametrize(("count", "expected"), [(1, []), (2, [5]), (5, [5, 10, 20]), (8, [5, 10, 20])])
def test_each_round_doubles_the_tokens(count: int, expected: list[int]) -> None:
    assert budgets(count, 5) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": 0}, "heal.candidates=0 is too small"),
        ({"candidates": 2, "round_tokens": 32}, "less than the 64 tokens of one step"),
        ({"candidates": 8, "round_tokens": 320}, "needs 3 rounds, and the last one heals on 1280 tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        lora(**changes).check()


def test_candidates_change_neither_the_key_nor_the_record_of_a_healing() -> None:
    one, eight = lora(), lora(candidates=8, round_tokens=64)
    assert one.key("text") == eight.key("text")
    assert one.line("text") == eight.line("text")
    assert one.recorded() == eight.recorded()
    assert not {"candidates", "round_tokens"} & {*one.recorded()}
