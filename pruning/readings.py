"""What is read off next-token distributions, without ever holding those of all positions.

A distribution over 50,000 to 260,000 tokens is bound by memory, not arithmetic, so positions are taken a few at a
time: as many as make the projection worth its reading of the weights, and of those as many as a cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes of float32 logits that are projected at a time, and normalised at a time, by the kind of device. A
# projection of few positions is bound by reading the weights; a normalisation of many falls out of a CPU's cache.
PROJECTED = {"cpu": 1 << 27, "cuda": 1 << 29}
NORMALISED = {"cpu": 1 << 22, "cuda": 1 << 29}

Head = Callable[[Tensor], Tensor]  # hidden states (m, D) to logits (m, V), for any m


@dataclass(frozen=True)
class Reading:
    """A number for each position, from ln p (m, V) of all tokens there.

    `value` is given the pruned model's ln p (m, V), the dense model's or None, and the tokens (m,) that follow.
    `compares` says whether it needs the dense model's.
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    compares: bool = False


LIKELIHOOD = Reading(lambda logs, _, targets: logs.gather(-1, targets[:, None])[:, 0])


def read(
    reading: Reading,
    head: Head,
    vocabulary: int,
    hidden: Tensor,
    dense: Tensor | None,
    targets: Tensor,
    limit: int | None = None,
) -> Tensor:
    """Readings (n,) in float64 on the CPU, of hidden states (n, D), the dense model's, and token ids (n,).

    With a `limit`, no more bytes of logits are projected at a time than that.
    """
    targets, found = targets.to(hidden.device), []
    known = None if dense is None else _distributions(head, dense, vocabulary, limit)
    for start, logs in _distributions(head, hidden, vocabulary, limit):
        others = logs if known is None else next(known)[1]
        following = targets[start : start + len(logs)].to(logs.device)  # the head may lie on another GPU
        found.append(reading.value(logs, others, following))
    return torch.cat(found).double().cpu()


def positions(device: str, vocabulary: int, limit: int | None = None) -> int:
    """How many positions are projected at a time."""
    size = PROJECTED.get(device, 1 << 25)
    return max(1, min(size, limit or size) // (4 * vocabulary))


def _distributions(
    head: Head, hidden: Tensor, vocabulary: int, limit: int | None
) -> Iterator[tuple[int, Tensor]]:
    """A few positions at a time: the number of the first, and ln p (m, V) in float32, or float64 for such logits."""
    device = hidden.device.type
    step = positions(device, vocabulary, limit)
    piece = max(1, NORMALISED.get(device, 1 << 25) // (4 * vocabulary))
    for start in range(0, len(hidden), step):
        logits = head(hidden[start : start + step])
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        for offset in range(0, len(logits), piece):
            yield start + offset, torch.log_softmax(logits[offset : offset + piece], -1, dtype=dtype)
