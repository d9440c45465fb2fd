"""Least squares from sums over tokens: the map T, near the identity or near 0, that brings M T closest to R.

With rows m_t of M and r_t of R, one row per token, T minimises

    sum over t of w_t |m_t T - r_t|^2  +  a mean(diag G) |T - P|^2        G = M' W M,  C = M' W R

so T = P + (G + a mean(diag G) I)^-1 (C - G P), in which P is the identity or 0. Only G and C are kept, in float64.
They take 16 D^2 bytes (D = 4096: 270 MB), or 16 D bytes for a diagonal T, however many tokens there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruning.distributed import collectives


@dataclass
class Sums:
    """G (D, D) and C (D, D), or their diagonals (D,), the weighted sum of |r_t|^2, and the number of tokens."""

    gram: Tensor
    cross: Tensor
    square: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, diagonal: bool) -> Sums:
        """Sums over no tokens."""
        shape = (width,) if diagonal else (width, width)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add the rows (n, D) of M and R, in float64."""
        self.gram, self.cross = self.gram.to(inputs.device), self.cross.to(inputs.device)
        if self.gram.dim() == 1:
            self.gram += (inputs * inputs).sum(0)
            self.cross += (inputs * targets).sum(0)
        else:
            self.gram.addmm_(inputs.T, inputs)
            self.cross.addmm_(inputs.T, targets)
        self.square += float((targets * targets).sum())
        self.tokens += len(inputs)

    def over_ranks(self) -> Sums:
        """The sums over the tokens of all ranks, on the CPU."""
        gram, cross = (
            torch.from_numpy(collectives.all_sum(x.cpu().numpy())) for x in (self.gram, self.cross)
        )
        square, tokens = collectives.all_sum(np.array([self.square, float(self.tokens)])).tolist()
        return Sums(gram, cross, square, int(tokens))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.gram + other.gram,
            self.cross + other.cross,
            self.square + other.square,
            self.tokens + other.tokens,
        )

    def solve(self, ridge: float, toward: float) -> Tensor:
        """The map T in float64; `ridge` is a, and P is `toward` times the identity."""
        if self.gram.dim() == 1:
            penalty = ridge * self.gram.mean()
            rest = self.gram + penalty
            change: Tensor = (self.cross - toward * self.gram) / torch.where(rest > 0, rest, 1.0)
            return toward + change
        penalty = ridge * self.gram.diagonal().mean()
        system = self.gram + penalty * torch.eye(len(self.gram), dtype=torch.float64)
        factor = torch.linalg.cholesky(system)
        solved = torch.cholesky_solve(self.cross - toward * self.gram, factor)
        solved.diagonal().add_(toward)
        return solved

    def error(self, change: Tensor | float) -> float:
        """The sum of w_t |m_t T - r_t|^2, divided by the sum of w_t |r_t|^2; T is a map, or a factor for all."""
        if isinstance(change, float):
            gram, cross = self._traces()
            loss = self.square - 2 * change * cross + change * change * gram
        elif self.gram.dim() == 1:
            loss = self.square - float((change * (2 * self.cross - change * self.gram)).sum())
        else:
            loss = self.square - float((change * (2 * self.cross - self.gram @ change)).sum())
        return max(0.0, loss) / self.square if self.square else 0.0

    def _traces(self) -> tuple[float, float]:
        if self.gram.dim() == 1:
            return float(self.gram.sum()), float(self.cross.sum())
        return float(self.gram.trace()), float(self.cross.trace())
