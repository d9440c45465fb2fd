"""Sums over a vocabulary in one compiled pass over the logits, for `forward.compile=true`.

Uncompiled, each operation (convert, subtract, exponential, sum) reads and writes all logits. Only sums of SHORT terms
are formed in the compiled code, and they are added in float64 outside of it. So the order of the additions depends
neither on the compiler nor on the number of positions, and the sums are more accurate than those of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from pruning.models.compiled import compiled_once

SHORT = 128

# exp(-80) is 1e-35: beside the highest logit, a whole vocabulary of such terms changes no digit. Smaller terms would
# be denormal numbers, with which a CPU computes 20 times slower.
NEGLIGIBLE = -80.0

Term = Callable[..., Tensor]  # maps log-probabilities (m, V), and tensors of this shape, to terms (m, V)


def can_fuse(vocabulary: int) -> bool:
    """Whether a vocabulary can be divided into groups of SHORT tokens."""
    return vocabulary % SHORT == 0


def log_sum(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest logit of each position (m, 1), and ln sum exp(logit - highest logit) (m, 1) in float64."""
    highest, sums = compiled_once(_exponentials)(logits)
    return highest, sums.double().sum(-1, keepdim=True).log_()


def token_sum(term: Term, logits: Tensor, total: tuple[Tensor, Tensor], *others: Tensor) -> Tensor:
    """The sum over tokens of `term(log-probabilities, *others)`, for each position (m,), in float64.

    `total` is what `log_sum` returned for the logits (m, V). `others` are tensors (m, V).
    """
    highest, logarithm = total
    sums = compiled_once(_summed(term))(logits, highest, logarithm.to(highest.dtype), *others)
    found: Tensor = sums.double().sum(-1)
    return found


def wide(logits: Tensor) -> torch.dtype:
    """The precision in which logits are normalised: float64 stays, all else is float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    highest = logits.amax(-1, keepdim=True).to(wide(logits))
    terms = (logits.to(wide(logits)) - highest).clamp(min=NEGLIGIBLE).exp()
    return highest, _short_sums(terms)


@cache  # the same function each time, so that it is compiled once
def _summed(term: Term) -> Callable[..., Tensor]:
    def sums(logits: Tensor, highest: Tensor, logarithm: Tensor, *others: Tensor) -> Tensor:
        log_probabilities = logits.to(highest.dtype) - highest - logarithm
        return _short_sums(term(log_probabilities, *others))

    return sums


def _short_sums(terms: Tensor) -> Tensor:
    return terms.view(len(terms), -1, SHORT).sum(-1)
