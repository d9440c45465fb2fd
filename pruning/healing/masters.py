"""Float32 copies of the trained weights: they receive the gradients and the steps of AdamW.

A step is often smaller than the spacing of bfloat16, so a weight in bfloat16 would not move. The copy moves, and the
model gets the rounded copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning.healing.settings import Training

BETAS = (0.9, 0.95)


class Masters:
    """The copies of some weights of a model, and their optimizer."""

    def __init__(self, parameters: Sequence[nn.Parameter], settings: Training) -> None:
        self.parameters, self.settings = parameters, settings
        self.copies = [nn.Parameter(weight.detach().float().clone()) for weight in parameters]
        matrices = [copy for copy in self.copies if copy.dim() > 1]
        others = [copy for copy in self.copies if copy.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
        )

    @property
    def weights(self) -> list[Tensor]:
        """The copies as tensors; a step changes them in place."""
        return [copy.data for copy in self.copies]

    def load(self, weights: Sequence[Tensor], optimizer: Mapping[str, Any]) -> None:
        """Continue with the weights and the optimizer's state of a checkpoint."""
        for copy, weight in zip(self.copies, weights, strict=True):
            copy.data.copy_(weight)
        self.optimizer.load_state_dict(dict(optimizer))
        self.write_back(self.weights)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for copy in self.copies:
            copy.grad = torch.zeros_like(copy)

    def collect(self) -> None:
        """Add the gradients of the model's weights to those of the copies, and free them."""
        for copy, weight in zip(self.copies, self.parameters, strict=True):
            if weight.grad is not None:
                assert copy.grad is not None
                copy.grad += weight.grad
                weight.grad = None

    def step(self, rate: float, loop: Any) -> None:
        """Sum the gradients over the ranks of an Accelerator, clip them, and change the copies and the model."""
        if loop.num_processes > 1:
            for copy in self.copies:
                copy.grad = loop.reduce(copy.grad, reduction="sum")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loop.clip_grad_norm_(self.copies, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.write_back(self.weights)

    def write_back(self, weights: Sequence[Tensor]) -> None:
        """Give the model these weights, rounded to its precision."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)
