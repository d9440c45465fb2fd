"""The losses in pieces and their gradients are the plain formulas on whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.healing import losses
from pruning.healing.heal_settings import LossWeights as Weights
from pruning.healing.loop import smaller_model
from pruning.healing.losses import last_state, summed_loss
from pruning.models.blocks import find_blocks
from tests.healing.worlds import MASK, tiny

IDS = torch.randint(3, 97, (3, 11), generator=torch.Generator().manual_seed(0))


def plain(student: Any, teacher: Any, weights: Weights) -> Tensor:
    """The loss as the formulas of the module say it, on the logits that transformers returns."""
    ours = student(input_ids=IDS, use_cache=False)
    with torch.no_grad():
        theirs = teacher(input_ids=IDS, use_cache=False)
    z, y, targets = ours.logits[:, :-1], theirs.logits[:, :-1], IDS[:, 1:]
    ce = -z.log_softmax(-1).gather(-1, targets[..., None]).sum()
    p, q = y.softmax(-1), z.softmax(-1)
    return weights.ce * ce + weights.kl * (p * (p.log() - q.log())).sum()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "weights",
    [Weights(), Weights(0.0, 1.0), Weights(0.5, 1.0)],
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
    actual = summed_loss(student, IDS, weights, teacher, recompute)
    expected = plain(student, teacher, weights)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(actual, leaves)
    theirs = torch.autograd.grad(expected, leaves)
    assert max(float(g.abs().max()) for g in theirs) > 0.01
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_the_last_state_is_that_of_the_model(name: str) -> None:
    model, found = tiny(name).module, list[Any]()
    last = find_blocks(model).modules[-1]
    with_hook = last.register_forward_hook(lambda _m, _a, out: found.append(out))
    model(input_ids=IDS, use_cache=False)
    with_hook.remove()
    wanted = found[0][0] if isinstance(found[0], tuple) else found[0]
    assert torch.equal(last_state(model, IDS), wanted)


@pytest.mark.parametrize("weights", [Weights(), Weights(0.5, 1.0)], ids=str)
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
