"""The losses in pieces and their gradients are the plain formulas on whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.healing import losses
from pruning.healing.heal_settings import LossWeights as Weights
from pruning.healing.loop import smaller_model
from pruning.healing.losses import block_states, summed_loss
from pruning.models.blocks import find_blocks
from tests.healing.worlds import MASK, tiny

IDS = torch.randint(3, 97, (3, 11), generator=torch.Generator().manual_seed(0))
PADDED = torch.cat([torch.zeros(3, 1, dtype=torch.long), IDS], 1)  # the embedding of token 0 is zeros


def plain(student: Any, teacher: Any, numbers: tuple[int, ...], weights: Weights) -> Tensor:
    """The loss as the formulas of the module say it, on the logits and hidden states that transformers returns."""
    ours = student(input_ids=IDS, use_cache=False)
    with torch.no_grad():
        theirs = teacher(input_ids=IDS, use_cache=False)
    z, y, targets = ours.logits[:, :-1], theirs.logits[:, :-1], IDS[:, 1:]
    ce = -z.log_softmax(-1).gather(-1, targets[..., None]).sum()
    heat = weights.temperature
    p, q = (y / heat).softmax(-1), (z / heat).softmax(-1)
    kl = heat**2 * (p * (p.log() - q.log())).sum()
    mine, wanted = (_after_blocks(model) for model in (student, teacher))
    errors = [
        (
            (h - wanted[number].detach())[:, :-1].square().sum(-1)
            / wanted[number].detach()[:, :-1].square().sum(-1)
        ).sum()
        for h, number in zip(mine, numbers, strict=True)
    ]
    return weights.ce * ce + weights.kl * kl + weights.hidden * torch.stack(errors).mean()


def _after_blocks(model: Any) -> list[Tensor]:
    found: list[Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out: found.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in find_blocks(model).modules
    ]
    model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "weights",
    [Weights(), Weights(0.0, 1.0), Weights(0.5, 1.0, 0.3, 2.0), Weights(0.0, 0.0, 1.0)],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    weights: Weights, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "positions_at_once", lambda *_: 7)  # pieces that do not fit evenly
    dense = tiny()
    smaller = smaller_model(dense, MASK)
    student, teacher = smaller.model.module, dense.module
    leaves = list(smaller.block_weights().values())
    actual = summed_loss(student, IDS, weights, teacher, smaller.numbers, recompute)
    expected = plain(student, teacher, smaller.numbers, weights)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(actual, leaves)
    theirs = torch.autograd.grad(expected, leaves)
    assert max(float(g.abs().max()) for g in theirs) > 0.01
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_states_are_those_of_the_model(name: str) -> None:
    model = tiny(name).module
    for mine, wanted in zip(block_states(model, IDS), _after_blocks(model), strict=True):
        assert torch.equal(mine, wanted)


def test_a_state_of_zeros_gives_no_nan_and_the_teacher_gets_no_gradients() -> None:
    dense = tiny()
    smaller = smaller_model(dense, MASK)
    every = Weights(0.5, 1.0, 1.0)
    loss = summed_loss(smaller.model.module, PADDED, every, dense.module, smaller.numbers)
    loss.backward()
    gradients = [weight.grad for weight in smaller.block_weights().values() if weight.grad is not None]
    assert loss.isfinite()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    inside = {id(weight) for block in find_blocks(dense.module).modules for weight in block.parameters()}
    assert all(weight.grad is None for weight in dense.module.parameters() if id(weight) in inside)


@pytest.mark.parametrize("weights", [Weights(), Weights(0.5, 1.0, 0.0, 2.0)], ids=str)
def test_in_bfloat16_loss_and_gradient_are_those_of_float32_up_to_rounding(weights: Weights) -> None:
    student, teacher = torch.randn(2, 40, 97, generator=torch.Generator().manual_seed(1)).bfloat16()
    targets = torch.arange(40)
    (loss, gradient), (exact, wanted) = (
        losses.loss_of_logits(z, y, targets, weights)
        for z, y in ((student, teacher), (student.float(), teacher.float()))
    )
    assert float(loss) == pytest.approx(float(exact), rel=1e-7), "logits are summed in float32"
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), wanted, rtol=2**-8, atol=1e-6)
