"""A part of the vocabulary bounds values, and states that were kept give them exactly."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.core.mask import Mask
from pruning.engine.bounds import MOST, MULTIPLE, bounds, chosen_tokens
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, PartialHead, Readout
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
    return Forward(language_model(build(name)), **{"batch_tokens": 20, **settings})


def part_of(forward: Forward) -> PartialHead:
    part = forward.parts[ROWS]
    assert part is not None
    return part


def kept(forward: Forward) -> set[Mask] | None:
    """The masks whose last states are kept."""
    return None if forward.ends is None else forward.ends.masks


@pytest.mark.parametrize(
    ("name", "masks", "readout"),
    [
        *((name, MASKS, LIKELIHOOD) for name in sorted(ARCHITECTURES)),
        ("llama", SUBLAYERS, LIKELIHOOD),
        *((name, MASKS, DIVERGENCE) for name in ("llama", "gemma3", "gpt2")),
    ],
)
def test_bounds_are_on_their_side_and_kept_states_give_the_values_exactly(
    name: str, masks: list[Mask], readout: Readout
) -> None:
    forward, above = forward_of(name), 1 if readout is LIKELIHOOD else -1
    bounded = summed(bounds(forward, ROWS, masks, readout))
    work = forward.cost.block_tokens
    exact = summed(forward.sums(ROWS, masks[1:4], readout))
    assert forward.cost.block_tokens == work, "blocks ran although the last states were kept"
    plainly = summed(forward_of(name).sums(ROWS, masks, readout))
    for mask in masks:
        gaps = above * (np.array(bounded[mask]) - np.array(plainly[mask]))
        assert all(gaps >= -1e-6), mask
        assert sum(gaps) > (0.01 if above == 1 else 0), "nothing was left out of the vocabulary"
        assert above == 1 or sum(bounded[mask]) > 0, "the bound says nothing"
    assert exact == {mask: plainly[mask] for mask in masks[1:4]}


def test_the_bound_is_the_sum_over_the_chosen_tokens() -> None:
    forward = forward_of()
    highest = summed(bounds(forward, ROWS, [dense := Mask(N_BLOCKS)], LIKELIHOOD))
    tokens = part_of(forward).tokens.tolist()
    followed = {token for row in ROWS for token in row.input_ids[row.span[0] : row.span[1]]}
    assert followed < set(tokens)
    assert len(tokens) <= len(followed) + 97 // MOST
    logits = []
    for row in ROWS:
        with torch.no_grad():
            logits.append(forward.model.module(input_ids=torch.tensor([row.input_ids])).logits[0].double())
    mass = sum(
        z.softmax(-1)[row.span[0] - 1 : row.span[1] - 1].sum(0) for z, row in zip(logits, ROWS, strict=True)
    )
    assert chosen_tokens(mass.numpy(), followed) == tokens, "other samples than these decided"
    z, ids = logits[0], ROWS[0].input_ids
    scored = range(*ROWS[0].span)
    expected = sum(float(z[at - 1, ids[at]] - z[at - 1, tokens].logsumexp(0)) for at in scored)
    assert highest[dense][0] == pytest.approx(expected, abs=1e-5)


def test_the_bound_of_a_divergence_is_that_within_the_part_times_its_probability() -> None:
    forward, mask = forward_of(), MASKS[2]
    lowest = summed(bounds(forward, ROWS, [mask], DIVERGENCE))[mask][0]
    p, q = (
        torch.from_numpy(plain_distributions(forward.model.module, dropped, ROWS[0]))
        for dropped in ((), mask.dropped)
    )
    p, q = p[:, part_of(forward).tokens], q[:, part_of(forward).tokens]
    within = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
    assert lowest == pytest.approx(float((p.exp().sum(-1) * within).sum()), abs=1e-5)


def test_the_fewest_tokens_with_most_of_the_probability_and_all_targets_are_chosen() -> None:
    probabilities = np.array([0.0, 50.0, 1.0, 48.5, 0.5, *[0.0] * 35])
    assert chosen_tokens(probabilities, {0, 3}) == [0, 1, 3]
    assert chosen_tokens(np.ones(40), {39}) == [*range(40 // MOST), 39]
    filled = -(-(100_000 // MOST + 2) // MULTIPLE) * MULTIPLE  # a large part is filled up with likely tokens
    chosen = chosen_tokens(np.arange(100_000.0), {0, 1, 99_999})
    assert chosen == [0, 1, *range(100_000 - filled + 2, 100_000)]


def test_states_that_do_not_fit_are_not_kept() -> None:
    forward = forward_of()
    forward.memory_budget._state_limit = 1.0
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert forward.ends is None
    assert summed(forward.loglikelihoods(ROWS, MASKS)) == summed(forward_of().loglikelihoods(ROWS, MASKS))


def test_kept_states_serve_no_other_rows_and_no_other_scales() -> None:
    forward, others, scales = forward_of(), text_rows(3, seed=1), (1.5,) * N_BLOCKS
    summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    assert kept(forward)
    found = summed(forward.with_scales(scales).loglikelihoods(ROWS, MASKS))
    assert found == summed(forward_of(scales=scales).loglikelihoods(ROWS, MASKS))
    assert summed(forward.loglikelihoods(others, MASKS)) == summed(forward_of().loglikelihoods(others, MASKS))
    assert forward.ends is None


def test_a_pass_that_was_stopped_leaves_no_states_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.engine.prefix_tree.PATIENCE", 1e-9)  # one mask at a time
    forward = forward_of()
    found: Any = bounds(forward, ROWS, MASKS, LIKELIHOOD)
    assert len(list(islice(found, 2))) == 2
    found.close()
    assert forward.ends is None
    assert summed(forward.loglikelihoods(ROWS, MASKS)) == summed(forward_of().loglikelihoods(ROWS, MASKS))


def test_a_head_that_cannot_be_divided_gives_no_bounds() -> None:
    class WrappedHead(nn.Module):
        def __init__(self, whole: nn.Linear) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, hidden: Tensor) -> Tensor:
            found: Tensor = self.whole(hidden)
            return found

    forward = forward_of()
    module = forward.model.module
    module.set_output_embeddings(WrappedHead(module.get_output_embeddings()))
    assert not list(bounds(forward, ROWS, MASKS, LIKELIHOOD))


@pytest.mark.parametrize("when", ["part", "bounds", "losses"])
def test_after_running_out_of_memory_losses_are_right(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, failing, read = forward_of(), [True], Forward._values

    def scarce(*given: Any) -> Any:
        if failing and failing.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(*given)

    if when != "part":  # memory runs out after the part is chosen
        summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))
    monkeypatch.setattr(Forward, "_values", scarce)
    if when != "losses":
        assert len(summed(bounds(forward, ROWS, MASKS, LIKELIHOOD))) == len(MASKS)
    found = summed(forward.loglikelihoods(ROWS, MASKS))
    assert not failing, "memory did not run out"
    assert when == "part" or forward.ends is None
    expected = summed(forward_of().loglikelihoods(ROWS, MASKS))
    for mask in MASKS:
        assert found[mask] == pytest.approx(expected[mask], rel=1e-6)
