"""What forward passes cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pruning.distributed import collectives


@dataclass
class Cost:
    """What forward passes cost. A block forward is one run of one block on all samples.

    A sub-layer counts as its share of the parameters of its block.

    `block_forwards_alone` is the number of block forwards if every mask were evaluated separately.
    `block_tokens` is the number of tokens that a block has processed, summed over blocks. `peak_memory` is in bytes.
    """

    block_forwards: float = 0.0
    block_forwards_alone: float = 0
    block_tokens: int = 0
    forward_seconds: float = 0.0
    peak_memory: int = 0

    def plus(self, other: Cost) -> Cost:
        """The sum of the two costs; for `peak_memory`, the maximum."""
        return Cost(
            round(self.block_forwards + other.block_forwards, 3),
            self.block_forwards_alone + other.block_forwards_alone,
            self.block_tokens + other.block_tokens,
            round(self.forward_seconds + other.forward_seconds, 3),
            max(self.peak_memory, other.peak_memory),
        )

    def over_ranks(self) -> Cost:
        """The cost over all ranks: the sum of their work, the maximum of their time and of their memory."""
        if collectives.world_size() == 1:
            return replace(self)
        forwards, tokens = collectives.all_sum(
            np.array([self.block_forwards, self.block_tokens], dtype=float)
        )
        seconds, memory = collectives.all_max(self.forward_seconds), collectives.all_max(self.peak_memory)
        return Cost(float(forwards), self.block_forwards_alone, int(tokens), seconds, int(memory))
