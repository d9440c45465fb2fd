"""ln p of tokens from logits, without ever holding the logits of all positions.

Softmax over a vocabulary of 50,000 to 260,000 tokens is bound by memory, not arithmetic: what counts is to touch few
pages and the same ones again. So positions are taken a few at a time and all go through one buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

BYTES = 1 << 25  # of float32 logits at a time; beyond it, allocators hand out fresh pages each time


@dataclass
class TokenLikelihood:
    """Log-likelihoods of target tokens; `vocabulary` sizes the pieces."""

    vocabulary: int
    _buffer: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(self, head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
        """Hidden states (n, D) and token ids (n,) to ln p (n,), in float64 on the CPU.

        `head` gives logits (m, V) for any m hidden states. The arithmetic is in float32, or in float64 for
        logits in float64.
        """
        step = max(1, BYTES // (4 * self.vocabulary))
        pieces = zip(hidden.split(step), targets.split(step), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([self._piece(head(states), tokens).double().cpu() for states, tokens in pieces])

    def _piece(self, logits: Tensor, targets: Tensor) -> Tensor:
        work = self._working_copy(logits)
        chosen = work.gather(-1, targets[:, None].to(work.device))[:, 0]
        highest = work.amax(-1, keepdim=True)
        total = work.sub_(highest).exp_().sum(-1)
        return chosen - highest[:, 0] - total.log()

    def _working_copy(self, logits: Tensor) -> Tensor:
        """The logits in the precision of the arithmetic, in a buffer that is used again and again."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        buffer = self._buffer
        if buffer.dtype != dtype or buffer.device != logits.device or buffer.numel() < logits.numel():
            self._buffer = buffer = torch.empty(logits.numel(), dtype=dtype, device=logits.device)
        return buffer[: logits.numel()].view_as(logits).copy_(logits)
