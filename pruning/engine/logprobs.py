"""Compute values from next-token distributions, for a limited number of positions at a time.

A vocabulary has 50,000 to 260,000 tokens, so memory is the limit here, not arithmetic. Positions are projected to
logits in groups. Each group is so large that reading the head's weights takes only a small part of the time. On a
CPU, the logits are normalised in smaller groups, which fit its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Bytes of float32 logits that are projected at a time, and normalised at a time, for each kind of device. If too
# few positions are projected, reading the weights takes most of the time. If the logits of too many are normalised,
# they do not fit a CPU's cache.
PROJECTED = {"cpu": 1 << 27, "cuda": 1 << 29}
NORMALISED = {"cpu": 1 << 22, "cuda": 1 << 29}

Head = Callable[[Tensor], Tensor]  # maps hidden states (m, D) to logits (m, V), for any m


@dataclass(frozen=True)
class Readout:
    """One value per position, computed from the log-probabilities ln p (m, V) of all tokens.

    `value` is called with ln p (m, V) of the pruned model, ln p of the dense model, and the next tokens (m,). If
    `compares` is false, no dense model is needed, and `value` gets the pruned model's ln p twice.
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    compares: bool = False


LIKELIHOOD = Readout(lambda logs, _, targets: logs.gather(-1, targets[:, None])[:, 0])


@dataclass(frozen=True)
class Projection:
    """Maps hidden states to logits over `vocabulary` tokens. `limit` bounds the bytes of logits at a time."""

    head: Head
    vocabulary: int
    limit: int | None = None


def read_out(
    readout: Readout, projection: Projection, hidden: Tensor, dense: Tensor | None, targets: Tensor
) -> Tensor:
    """The values (n,) of a readout, in float64 on the CPU.

    They are computed from hidden states (n, D), the dense model's hidden states or None, and token ids (n,).
    """
    targets, values = targets.to(hidden.device), []
    dense_logs = None if dense is None else _distributions(projection, dense)
    for start, logs in _distributions(projection, hidden):
        others = logs if dense_logs is None else next(dense_logs)[1]
        following = targets[start : start + len(logs)].to(logs.device)  # the head may be on another GPU
        values.append(readout.value(logs, others, following))
    return torch.cat(values).double().cpu()


def positions_at_once(device: str, vocabulary: int, limit: int | None = None) -> int:
    """How many positions are projected at a time."""
    size = PROJECTED.get(device, 1 << 25)
    return max(1, min(size, limit or size) // (4 * vocabulary))


def _distributions(projection: Projection, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For each group of m positions, yield the index of its first position, and ln p (m, V) in float32 or float64."""
    device, vocabulary = hidden.device.type, projection.vocabulary
    step = positions_at_once(device, vocabulary, projection.limit)
    piece = max(1, NORMALISED.get(device, 1 << 25) // (4 * vocabulary))
    for start in range(0, len(hidden), step):
        logits = projection.head(hidden[start : start + step])
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        for offset in range(0, len(logits), piece):
            yield start + offset, torch.log_softmax(logits[offset : offset + piece], -1, dtype=dtype)
