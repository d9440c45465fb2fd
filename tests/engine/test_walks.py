"""Masks start at states that were kept: fewer blocks run, losses are equal bit for bit, and all fits into memory."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import (
    ALONE,
    UNKNOWN_PACE,
    Pace,
    StateBytes,
    affordable_depths,
    beginning,
    edges,
    forks,
    make_plan,
    most_edges,
)
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import item_rows, language_model, text_rows

ROWS = {"text": text_rows(9), "items": item_rows(6)}
MODELS = {name: language_model(build(name)) for name in ("llama", "gemma3")}
MODELS["half"] = language_model(build("llama").bfloat16())
MASKS = [Mask(N_BLOCKS, d) for k in range(N_BLOCKS) for d in itertools.combinations(range(N_BLOCKS), k)]
SINGLES = forks([Mask(6, (block,)) for block in range(6)])


def values(forward: Forward, masks: list[Mask], kind: str = "text") -> dict[Mask, list[float]]:
    return {mask: sums for mask, sums, _ in forward.loglikelihoods(ROWS[kind], masks)}


def round_of_greedy(*dropped: int) -> list[Mask]:
    return [Mask(N_BLOCKS, (*dropped, block)) for block in range(N_BLOCKS) if block not in dropped]


def in_order(masks: list[Mask]) -> list[Mask]:
    return sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(mask.n_units)])


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", ROWS)
def test_the_number_of_masks_per_walk_changes_neither_cost_nor_losses(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (Forward(MODELS["llama"], 60) for _ in range(2))
    monkeypatch.setattr(Pace, "size", lambda _: len(MASKS))
    expected = values(whole, MASKS, kind)
    monkeypatch.setattr(Pace, "size", lambda _: size)
    assert values(parts, MASKS, kind) == expected
    assert parts.cost.block_forwards == pytest.approx(whole.cost.block_forwards)


def test_a_round_of_greedy_starts_where_masks_of_the_round_before_have_been() -> None:
    forward = Forward(MODELS["llama"], 60)
    values(forward, round_of_greedy())
    before = forward.cost.block_forwards
    actual = values(forward, round_of_greedy(3))
    # Masks j < 3 go on after block 3, masks j > 3 from the path that dropped 3 alone: after j, N - 1 - j blocks.
    expected = 3 * (N_BLOCKS - 4) + sum(range(N_BLOCKS - 4))
    assert forward.cost.block_forwards - before == pytest.approx(expected)
    assert actual == values(Forward(MODELS["llama"], 60), round_of_greedy(3))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_losses_do_not_depend_on_earlier_requests(data: st.DataObject) -> None:
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    forward, free = Forward(model, 60), data.draw(st.sampled_from([10**9, 500_000]))
    some = st.lists(st.sampled_from(MASKS), min_size=1, max_size=8, unique=True)
    for _ in range(data.draw(st.integers(1, 3))):
        masks, kind = data.draw(some), data.draw(st.sampled_from(sorted(ROWS)))
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr("pruning.engine.memory.free_memory", lambda _: free)
            assert values(forward, masks, kind) == values(Forward(model, 60), masks, kind)


def test_other_factors_have_states_of_their_own() -> None:
    forward, scales = Forward(MODELS["llama"], 60), (0.5,) * N_BLOCKS
    plain = values(forward, round_of_greedy(3))
    scaled = values(forward.with_scales(scales), round_of_greedy(3))
    assert scaled == values(Forward(MODELS["llama"], 60, scales=scales), round_of_greedy(3))
    assert all(scaled[mask] != plain[mask] for mask in plain)
    assert values(forward.with_scales(None), round_of_greedy(3)) == plain


@given(st.lists(st.sampled_from(MASKS), min_size=1, max_size=20, unique=True))
def test_edges_are_where_later_masks_leave_the_path(masks: list[Mask]) -> None:
    todo, longest = in_order(masks), 0
    for number in range(len(todo)):
        plain = {
            max(d for d in range(N_BLOCKS + 1) if beginning(todo[number], d) == beginning(later, d))
            for later in todo[number + 1 :]
        }
        assert sorted(edges(forks(todo[number:]))) == sorted(plain)
        longest = max(longest, len(plain))
    assert most_edges(forks(todo)) == longest


@pytest.mark.parametrize(
    ("room", "depths"), [(20, [1, 2, 3, 4, 5]), (19, [2, 4]), (8, [2, 4]), (7, [4]), (5, [4]), (4, [])]
)
def test_states_are_kept_at_as_many_depths_as_fit(room: float, depths: list[int]) -> None:
    # Without one of six blocks each: at depth d there are d + 1 different beginnings.
    assert list(affordable_depths(SINGLES, 6, 1, room)) == depths


@pytest.mark.parametrize("room", [0, 10, 39, 40, 100, 250, 500, 10_000])
def test_what_is_held_and_walked_fits_into_the_room(room: int) -> None:
    plan = make_plan(SINGLES, 6, StateBytes(room, walked=5, kept=10))
    held = 10 * sum(depth + 1 for depth in plan.depths) + (15 if plan.continues else 0)
    assert held <= room / 2
    assert plan.capacity == 1 or held + 5 * plan.capacity <= room
    assert plan.continues == (room >= 30)


def test_without_room_the_size_of_a_walk_does_not_follow_the_clock() -> None:
    slow, fast = Pace(), Pace()
    slow.note(4, 100.0)
    fast.note(4, 0.0001)
    alone, going_on = (make_plan(SINGLES, 6, StateBytes(room, 1, 1000)) for room in (900, 10_000))
    assert alone.size(slow) == alone.size(fast) == ALONE
    assert going_on.size(slow) == 1 < going_on.size(fast)


@pytest.mark.parametrize(
    ("patience", "fixed", "each", "size"),
    [
        (20.0, 0.0, 0.1, 200),
        (20.0, 10.0, 0.1, 100),
        (20.0, 15.0, 0.1, 150),  # at most half of the time is fixed
        (0.1, 0.3, 0.01, 30),
        (20.0, 0.0, 25.0, 1),
    ],
)
def test_the_pace_fits_the_fixed_and_the_marginal_cost(
    patience: float, fixed: float, each: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruning.engine.prefix_tree.PATIENCE", patience)
    pace = Pace()
    assert pace.size() == UNKNOWN_PACE
    for _ in range(4):
        pace.note(pace.size(), fixed + each * pace.size())
    assert pace.size() == pytest.approx(size, abs=1)
