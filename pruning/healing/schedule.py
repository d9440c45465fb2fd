"""The learning rate of each step: warm-up, constant, linear decay (WSD), or warm-up and a cosine.

With WSD (warm-up, stable, decay; arXiv 2404.06395), the rate before the decay does not depend on the budget. So a
larger budget continues from the state in which a smaller one began to decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A schedule of `steps` steps: the rate rises in the first `warmup` steps and falls in the last `falling` ones.

    `falling` is None for a cosine.
    """

    steps: int
    warmup: int
    falling: int | None

    @property
    def stable(self) -> int:
        """The number of steps that larger budgets have in common with this one."""
        return 0 if self.falling is None else self.steps - self.falling

    def factor(self, step: int) -> float:
        """The rate of a step, counted from 0, as a part of the full rate; in (0, 1]."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        if self.falling is None:
            return rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if step < self.stable:
            return rising
        return rising * (self.steps - step) / (self.falling + 1)


def schedule_of(kind: str, steps: int, warmup: int, decay: float) -> Schedule:
    """The schedule of a kind, `wsd` or `cosine`; `decay` is the share of the steps in which a WSD rate falls."""
    return Schedule(steps, warmup, None if kind == "cosine" else min(steps, math.ceil(decay * steps)))
