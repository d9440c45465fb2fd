"""Masks start at states that were kept: fewer blocks run, and losses are equal to the last bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine.batching import Pace
from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import Beginnings, affordable_depths, beginning, edges, forks, most_edges
from pruning.models.model import LanguageModel
from tests.helpers.architectures import N_BLOCKS, build
from tests.helpers.rows import item_rows, language_model, text_rows

ROWS = {"text": text_rows(9), "items": item_rows(6)}
MODELS = {name: language_model(build(name)) for name in ("llama", "gemma3")}
MASKS = [Mask(N_BLOCKS, d) for k in range(N_BLOCKS) for d in itertools.combinations(range(N_BLOCKS), k)]


def values(forward: Forward, masks: list[Mask], kind: str = "text") -> dict[Mask, list[float]]:
    return {mask: sums for mask, sums, _ in forward.loglikelihoods(ROWS[kind], masks)}


def round_of_greedy(*dropped: int) -> list[Mask]:
    return [Mask(N_BLOCKS, (*dropped, block)) for block in range(N_BLOCKS) if block not in dropped]


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


@pytest.mark.parametrize("size", [1, 5])
def test_the_clock_does_not_change_what_filled_passes_cost(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language_model(build("llama").bfloat16())
    whole, parts = (Forward(model, 4000, merge=True) for _ in range(2))
    rows = text_rows(3)
    expected = list(whole.loglikelihoods(rows, MASKS))
    monkeypatch.setattr(Pace, "size", lambda _: size)
    found = list(parts.loglikelihoods(rows, MASKS))
    assert [score[:2] for score in found] == [score[:2] for score in expected]
    assert parts.cost.block_forwards == pytest.approx(whole.cost.block_forwards)
    assert whole.cost.block_forwards > 1.05 * plain_forwards(model, rows), "passes are filled up"


def plain_forwards(model: LanguageModel, rows: tuple[Row, ...]) -> float:
    forward = Forward(model, 4000, merge=False)
    list(forward.loglikelihoods(rows, MASKS))
    return forward.cost.block_forwards


def test_a_round_of_greedy_starts_where_masks_of_the_round_before_have_been() -> None:
    forward = Forward(MODELS["llama"], 60)
    values(forward, round_of_greedy())
    before = forward.cost.block_forwards
    actual = values(forward, round_of_greedy(3))
    # Masks j < 3 go on after block 3, masks j > 3 from the path that dropped 3 alone: after j, N - 1 - j blocks.
    assert forward.cost.block_forwards - before == pytest.approx(
        3 * (N_BLOCKS - 4) + sum(range(N_BLOCKS - 4))
    )
    assert actual == values(Forward(MODELS["llama"], 60), round_of_greedy(3))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_losses_do_not_depend_on_earlier_requests(data: st.DataObject) -> None:
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    forward = Forward(model, 60, data.draw(st.sampled_from([None, 500_000])))
    some = st.lists(st.sampled_from(MASKS), min_size=1, max_size=8, unique=True)
    for _ in range(data.draw(st.integers(1, 3))):
        masks, kind = data.draw(some), data.draw(st.sampled_from(sorted(ROWS)))
        assert values(forward, masks, kind) == values(Forward(model, 60), masks, kind)


def test_other_factors_have_states_of_their_own() -> None:
    forward, scales = Forward(MODELS["llama"], 60), (0.5,) * N_BLOCKS
    plain = values(forward, round_of_greedy(3))
    scaled = values(forward.with_scales(scales), round_of_greedy(3))
    assert scaled == values(Forward(MODELS["llama"], 60, scales=scales), round_of_greedy(3))
    assert all(scaled[mask] != plain[mask] for mask in plain)
    assert values(forward.with_scales(None), round_of_greedy(3)) == plain


def test_half_precision_gives_the_same_bits() -> None:
    model = language_model(build("llama").bfloat16())
    forward = Forward(model, 60)
    for dropped in ((), (3,), (3, 1)):
        assert values(forward, round_of_greedy(*dropped)) == values(
            Forward(model, 60), round_of_greedy(*dropped)
        )


@given(st.lists(st.sampled_from(MASKS), min_size=1, max_size=20, unique=True))
def test_edges_are_where_later_masks_leave_the_path(masks: list[Mask]) -> None:
    todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(N_BLOCKS)])
    longest = 0
    for number in range(len(todo)):
        found = edges(forks(todo[number:]))
        plain = {
            max(d for d in range(N_BLOCKS + 1) if beginning(todo[number], d) == beginning(later, d))
            for later in todo[number + 1 :]
        }
        assert sorted(found) == sorted(plain)
        longest = max(longest, len(plain))
    assert most_edges(forks(todo)) == longest


@pytest.mark.parametrize(
    ("room", "depths"), [(20, [1, 2, 3, 4, 5]), (19, [2, 4]), (8, [2, 4]), (7, [4]), (5, [4]), (4, [])]
)
def test_states_are_kept_at_as_many_depths_as_fit(room: float, depths: list[int]) -> None:
    # Without one of six blocks each: at depth d there are d + 1 different beginnings.
    leaving = forks([Mask(6, (block,)) for block in range(6)])
    assert list(affordable_depths(leaving, 6, 1, room)) == depths


def test_what_no_mask_begins_with_is_forgotten() -> None:
    forward = Forward(MODELS["llama"], 60)
    values(forward, round_of_greedy())
    held = forward.beginnings.nbytes()
    values(forward, round_of_greedy(0))
    assert 0 < forward.beginnings.nbytes() <= held
    (batch, *_) = forward.memory_budget.batches(ROWS["text"])
    assert all(0 in dropped for depth, dropped in forward.beginnings.of(batch, "block") if depth)
    values(forward, round_of_greedy(), "items")
    forward.beginnings.clear()
    assert forward.beginnings.nbytes() == 0


def test_a_single_mask_keeps_nothing_and_loses_nothing() -> None:
    forward = Forward(MODELS["llama"], 60)
    values(forward, [Mask(N_BLOCKS, (2,))])
    assert forward.beginnings.nbytes() == 0
    values(forward, round_of_greedy())
    held, before = forward.beginnings.nbytes(), forward.cost.block_forwards
    values(forward, [Mask(N_BLOCKS, (0, 5))])
    assert forward.beginnings.nbytes() == held
    assert forward.cost.block_forwards == before, "the state of mask 0 before block 5 is known"


def test_states_end_with_their_batch() -> None:
    forward = Forward(MODELS["llama"], 60)
    values(forward, round_of_greedy())
    forward.memory_budget._batches.clear()
    assert forward.beginnings.nbytes() == 0


def test_views_are_copied() -> None:
    from pruning.engine.prefix_tree import Notes, Wanted

    states = torch.arange(12.0).view(2, 2, 3)
    notes = Notes(wanted=Wanted(depths=[1]))
    notes.pass_by(1, [(states[:1], [0]), (states[1:].clone(), [1])], [Mask(3, (0,)), Mask(3, (1,))])
    assert [kept.untyped_storage().nbytes() for kept in notes.states.values()] == [24, 24]
    assert Beginnings().nbytes() == 0
