"""What a cell's forward passes cost, summed over all the runs that it took, kills included."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pruning import files, ranks


@dataclass
class Cost:
    """What forward passes cost. A block forward is one block over all samples.

    `block_forwards_alone` is how many the same masks would have cost, each evaluated by itself; `block_tokens` how
    many tokens were put through a block, over all blocks; `peak_memory` is in bytes.
    """

    block_forwards: float = 0.0
    block_forwards_alone: int = 0
    block_tokens: int = 0
    forward_seconds: float = 0.0
    peak_memory: int = 0

    def plus(self, other: Cost) -> Cost:
        """The sum; of two peaks, the higher."""
        return Cost(
            round(self.block_forwards + other.block_forwards, 3),
            self.block_forwards_alone + other.block_forwards_alone,
            self.block_tokens + other.block_tokens,
            round(self.forward_seconds + other.forward_seconds, 3),
            max(self.peak_memory, other.peak_memory),
        )

    def over_ranks(self) -> Cost:
        """What all ranks have spent together: the work of each, the time and memory of the one that needed most."""
        if ranks.count() == 1:
            return replace(self)
        forwards, tokens = ranks.total(np.array([self.block_forwards, self.block_tokens], dtype=float))
        seconds, memory = ranks.largest(self.forward_seconds), ranks.largest(self.peak_memory)
        return Cost(float(forwards), self.block_forwards_alone, int(tokens), seconds, int(memory))


@dataclass
class Ledger:
    """A running `Cost` and what earlier runs of the same cell had spent, kept in a file until the cell is done."""

    path: Path
    running: Cost
    earlier: Cost
    _saved: Cost

    @classmethod
    def open(cls, path: Path, running: Cost) -> Ledger:
        """Go on from what the file says, if there is one."""
        earlier = ranks.first(lambda: Cost(**files.read_json(path)) if path.exists() else Cost())
        return cls(path, running, earlier, replace(running))

    def total(self) -> Cost:
        """All runs and ranks together."""
        return self.earlier.plus(self.running.over_ranks())

    def save(self) -> None:
        """Write the total, if anything was spent since the last time."""
        spent = self.running.over_ranks()
        if spent != self._saved and ranks.is_first():
            files.write_json(self.path, asdict(self.earlier.plus(spent)))
        self._saved = spent

    def close(self) -> None:
        """The result holds it now."""
        if ranks.is_first():
            self.path.unlink(missing_ok=True)
