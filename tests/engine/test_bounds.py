"""A part of the vocabulary bounds values, and states that were kept give them exactly."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine import bounds as bounds_module
from pruning.engine import head as part_module
from pruning.engine.bounds import bounds
from pruning.engine.forward import BatchReader, Forward
from pruning.engine.head import LIKELIHOOD, Readout, _chosen, partial_head
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build
from tests.helpers.objectives import plain_distributions
from tests.helpers.rows import language_model, text_rows

MASKS = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)] + [Mask(N_BLOCKS, (0, 3))]
ROWS = text_rows(3)  # so few that most of the 97 tokens do not follow anywhere
SUBLAYERS = [Mask(N_BLOCKS, (i,), "sublayer") for i in range(0, 2 * N_BLOCKS, 3)]

DIVERGENCE = Readout(
    lambda pruned, dense, _: (dense.probabilities * (dense.whole - pruned.whole)).sum(-1), compares=True
)


def summed(values: Iterable[tuple[Mask, list[float], float]]) -> dict[Mask, list[float]]:
    return {mask: sums for mask, sums, _ in values}


def forward_of(name: str = "llama", **settings: Any) -> Forward:
    return Forward(language_model(build(name)), batch_tokens=20, **settings)


@pytest.mark.parametrize(
    ("name", "masks"), [*((name, MASKS) for name in sorted(ARCHITECTURES)), ("llama", SUBLAYERS)]
)
def test_bounds_are_above_log_likelihoods_and_kept_states_give_these_exactly(
    name: str, masks: list[Mask]
) -> None:
    forward = forward_of(name)
    highest = summed(bounds(forward, ROWS, masks, LIKELIHOOD))
    work = forward.cost.block_tokens
    exact = summed(forward.loglikelihoods(ROWS, masks[1:4]))
    assert forward.cost.block_tokens == work, "blocks ran although the last states were kept"
    plainly = summed(forward_of(name).loglikelihoods(ROWS, masks))
    for mask in masks:
        assert all(np.array(highest[mask]) >= np.array(plainly[mask]) - 1e-6), mask
        assert sum(highest[mask]) > sum(plainly[mask]) + 0.01, "nothing was left out of the vocabulary"
    for mask in exact:
        assert exact[mask] == plainly[mask]


def test_the_bound_is_the_sum_over_the_chosen_tokens() -> None:
    forward = forward_of()
    highest = summed(bounds(forward, ROWS, [dense := Mask(N_BLOCKS)], LIKELIHOOD))
    part = forward.parts.of[ROWS]
    assert part is not None
    tokens = part.tokens.tolist()
    followed = {token for row in ROWS for token in row.input_ids[row.span[0] : row.span[1]]}
    assert followed < set(tokens)
    assert len(tokens) <= len(followed) + 97 // part_module.MOST
    with torch.no_grad():
        mass = sum(
            forward.model.module(input_ids=torch.tensor([row.input_ids]))
            .logits[0]
            .softmax(-1)[row.span[0] - 1 : row.span[1] - 1]
            .sum(0)
            for row in ROWS
        )
    assert _chosen(mass.double().numpy(), followed) == tokens, "other samples than these decided"
    ids = ROWS[0].input_ids
    with torch.no_grad():
        logits = forward.model.module(input_ids=torch.tensor([ids])).logits[0].double()
    start, stop = ROWS[0].span
    expected = sum(
        float(logits[at - 1, ids[at]] - logits[at - 1, tokens].logsumexp(0)) for at in range(start, stop)
    )
    assert highest[dense][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_divergences_are_bounded_and_kept_states_give_them_exactly(name: str) -> None:
    forward = forward_of(name)
    lowest = summed(bounds(forward, ROWS, MASKS, DIVERGENCE))
    work = forward.cost.block_tokens
    exact = summed(forward.sums(ROWS, MASKS[1:4], DIVERGENCE))
    assert forward.cost.block_tokens == work, "blocks ran although the last states were kept"
    plainly = summed(forward_of(name).sums(ROWS, MASKS, DIVERGENCE))
    for mask in MASKS:
        assert all(np.array(lowest[mask]) <= np.array(plainly[mask]) + 1e-6), mask
        assert 0 < sum(lowest[mask]) < sum(plainly[mask]), "the bound says nothing, or nothing was left out"
    for mask in exact:
        assert exact[mask] == plainly[mask]


def test_the_bound_of_a_divergence_is_that_within_the_part_times_its_probability() -> None:
    forward, mask = forward_of(), MASKS[2]
    lowest = summed(bounds(forward, ROWS, [mask], DIVERGENCE))[mask][0]
    part = forward.parts.of[ROWS]
    assert part is not None
    p, q = (
        torch.from_numpy(plain_distributions(forward.model.module, dropped, ROWS[0]))[:, part.tokens]
        for dropped in ((), mask.dropped)
    )
    inside = p.exp().sum(-1)
    within = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    assert lowest == pytest.approx(float((inside * within).sum()), abs=1e-5)


def test_the_part_is_chosen_once_and_the_models_head_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = forward_of(), 0

    def counted(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        return partial_head(*given)

    monkeypatch.setattr(bounds_module, "partial_head", counted)
    whole = forward.model.module.get_output_embeddings()
    for _ in range(2):
        summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert calls == 1
    assert forward.model.module.get_output_embeddings() is whole


def test_states_that_do_not_fit_are_not_kept() -> None:
    forward = forward_of()
    forward.memory_budget._state_limit = 1.0
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert not forward.ends.states
    assert summed(forward.loglikelihoods(ROWS, MASKS)) == summed(forward_of().loglikelihoods(ROWS, MASKS))


def test_kept_states_serve_no_other_rows_and_no_other_scales() -> None:
    forward, others = forward_of(), text_rows(3, seed=1)
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert summed(forward.loglikelihoods(others, MASKS)) == summed(forward_of().loglikelihoods(others, MASKS))
    scales = (1.5,) * N_BLOCKS
    found = summed(forward.with_scales(scales).loglikelihoods(ROWS, MASKS))
    assert found == summed(forward_of(scales=scales).loglikelihoods(ROWS, MASKS))


def test_a_pass_that_was_stopped_leaves_no_states_to_use() -> None:
    forward = forward_of(patience=1e-9)  # one mask at a time
    found: Any = bounds(forward, ROWS, MASKS, LIKELIHOOD)
    assert len(list(islice(found, 2))) == 2
    found.close()
    assert not forward.ends.masks
    assert not forward.ends.open
    assert summed(forward.loglikelihoods(ROWS, MASKS)) == summed(forward_of().loglikelihoods(ROWS, MASKS))


def test_a_head_that_cannot_be_divided_gives_no_bounds() -> None:
    class Head(nn.Module):
        def __init__(self, whole: nn.Linear) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, hidden: Tensor) -> Tensor:
            found: Tensor = self.whole(hidden)
            return found

    forward = forward_of()
    module = forward.model.module
    module.set_output_embeddings(Head(module.get_output_embeddings()))
    assert not list(bounds(forward, ROWS, MASKS, LIKELIHOOD))


def test_rows_are_a_sequence_of_any_kind() -> None:
    rows: list[Row] = list(ROWS)
    forward = forward_of()
    summed(bounds(forward, rows, MASKS, LIKELIHOOD))
    assert forward.ends.known(ROWS, forward.memory_budget.batches(ROWS), MASKS) == MASKS


def test_states_are_forgotten_when_other_rows_are_read() -> None:
    forward = forward_of()
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert forward.ends.states
    summed(forward.loglikelihoods(text_rows(2, seed=1), MASKS))
    assert not forward.ends.states
    assert forward.ends.reserved == 0.0


@pytest.mark.parametrize("when", ["bounds", "losses"])
def test_after_running_out_of_memory_losses_are_right(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, failing = forward_of(), [False]
    read = BatchReader._read_out

    def scarce(*given: Any) -> Any:
        if failing.pop() if failing else False:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(*given)

    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    failing = [True]
    monkeypatch.setattr(BatchReader, "_read_out", scarce)
    if when == "bounds":
        assert len(summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))) == len(MASKS)
    found = summed(forward.loglikelihoods(ROWS, MASKS))
    assert not failing, "memory did not run out"
    assert not forward.ends.states
    expected = summed(forward_of().loglikelihoods(ROWS, MASKS))
    for mask in MASKS:
        assert found[mask] == pytest.approx(expected[mask], rel=1e-6)


@pytest.mark.parametrize("memory", [60_000, 20_000])
def test_batches_can_become_smaller_between_the_choice_of_a_part_and_its_use(memory: int) -> None:
    rows, expected = text_rows(12), summed(forward_of().sums(text_rows(12), MASKS, DIVERGENCE))
    forward = Forward(language_model(build("llama")), batch_tokens=200, memory=memory)
    lowest = summed(bounds(forward, rows, MASKS, DIVERGENCE))
    assert forward.memory_budget.batch_tokens < 200, "the batches did not change"
    for mask in MASKS:
        assert all(np.array(lowest[mask]) <= np.array(expected[mask]) + 1e-6), mask


def test_memory_that_runs_out_while_a_part_is_chosen_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, failing, read = forward_of(), [True], BatchReader._read_out

    def scarce(*given: Any) -> Any:
        if failing and failing.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(*given)

    monkeypatch.setattr(BatchReader, "_read_out", scarce)
    assert len(summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))) == len(MASKS)


def test_nothing_is_kept_after_a_search() -> None:
    forward = forward_of()
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert forward.ends.states
    forward.release()
    assert not forward.ends.states
    assert not forward.beginnings.nbytes()
    part = forward.parts.of[ROWS]
    assert part is not None
    assert "layer" not in vars(part)
