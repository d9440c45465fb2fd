"""The losses of healing, computed for some positions at a time so that logits of all positions are never in memory.

For a window of T tokens, the T - 1 predictions are scored. With student logits z and teacher logits y,

    cross entropy  = -log softmax(z)[next token]
    KL             = t^2 sum_v p_v (log p_v - log q_v),    p = softmax(y / t), q = softmax(z / t)
    hidden         = mean over kept blocks of |h - g|^2 / |g|^2

where h and g are the states after a block in the student and in the teacher (Hinton et al., arXiv 1503.02531). All
are sums over positions here; the trainer divides by the number of positions. The first two: `readout_loss.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pruning.healing.readout_loss import Weights, readout_loss
from pruning.models.block_probe import find_blocks
from pruning.models.blocks import apply, enter

# The least mean square of a teacher's state. A state is all zeros if a text begins with the padding token, whose
# embedding is zeros in many models.
SMALLEST = 1e-6


def block_states(model: Any, ids: Tensor, recompute: bool = False) -> list[Tensor]:
    """The states (B, T, D) after each block, for token ids (B, T).

    With `recompute` (gradient checkpointing), what is inside of a block is computed again in the backward pass.
    """
    blocks, entry = find_blocks(model), enter(model, input_ids=ids)
    hidden, states = entry.hidden, []
    for index in range(len(blocks.modules)):
        if recompute and torch.is_grad_enabled():
            hidden = checkpoint(apply, blocks, index, hidden, entry, use_reentrant=False)
        else:
            hidden = apply(blocks, index, hidden, entry)
        states.append(hidden)
    return states


def summed_loss(
    student: Any,
    ids: Tensor,
    weights: Weights,
    teacher: Any = None,
    numbers: tuple[int, ...] = (),
    recompute: bool = False,
) -> Tensor:
    """The sum of the losses over all predictions of token ids (B, T), in float32.

    `numbers` are the teacher's blocks that the student's blocks correspond to.
    """
    states = block_states(student, ids, recompute)
    known = None
    if weights.teaches:
        with torch.no_grad():
            known = block_states(teacher, ids)
    wanted = known[-1] if known is not None and weights.kl else None
    total = readout_loss(student, states[-1], ids, weights, teacher, wanted)
    if weights.hidden and known is not None:
        kept = [known[number] for number in numbers]
        total = total + weights.hidden * _state_loss(states, kept)
    return total


def _state_loss(states: list[Tensor], kept: list[Tensor]) -> Tensor:
    """The relative squared errors of states, summed over positions and averaged over blocks."""
    errors = [
        _relative_error(a[:, :-1].float(), b[:, :-1].float()) for a, b in zip(states, kept, strict=True)
    ]
    return torch.stack([error.to(errors[0].device) for error in errors]).mean()


def _relative_error(state: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.square().mean(-1).clamp(min=SMALLEST)
    return ((state - wanted).square().mean(-1) / size).sum()
