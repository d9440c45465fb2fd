"""Settings for the compensation of removed units. Magnitude compensation scales the hidden state by a factor.

Source: Prune&Comp (arXiv 2507.18212; code chenxinrui-tsinghua/PruneAndComp). The blocks of a pre-norm model make the
state grow. If a block is removed, the state is too small relative to what the following blocks add. If h_i is the
state before block i, the factor of block i is

    s_i = mean over samples of  (mean |h_{i+1}|) / (mean |h_i|)        inner means over tokens and width

and removing block i replaces its output F_i(h) by s_i * h. Prune&Comp instead multiplies the embeddings and all
earlier blocks' output projections by s_i. Every norm that reads the state cancels s_i, so the two ways give the same
function, up to the norms' epsilon. Multiplying the state changes no weights, so it works with tied embeddings.

Prune&Comp measures a block's factor on the current model, in which earlier removals are compensated. Here the factors
are measured once, on the dense model, for all masks. If blocks are removed from the last to the first, the two
measurements give identical factors. Otherwise, the state after a removed block has the right magnitude but a slightly
different direction. On random pre-norm models of six blocks, the two measurements' factors differ by up to 2 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from pruning.core.errors import InputError


@dataclass(frozen=True)
class NoCompensation:
    """Units are removed without compensation."""

    search: ClassVar[bool] = False


@dataclass(frozen=True)
class Magnitude:
    """Each removed unit is replaced by a factor that multiplies the hidden state.

    If `search` is true, the search scores compensated models, as Prune&Comp's iterative search does. If it is false,
    the search scores uncompensated models, and only the final mask is compensated.
    """

    search: bool = True


@dataclass(frozen=True)
class Linear:
    """For a run of removed units, a matrix (D, D) multiplies M, what the unit before the run adds (`engine.repair`).

    `ridge` lists the ridge strengths to try, in units of the mean diagonal of M'M. Every `heldout`-th calibration
    sample is held out to choose one. The search scores models without matrices, because each mask would need its own.
    """

    search: ClassVar[bool] = False
    ridge: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    heldout: int = 4

    def __post_init__(self) -> None:
        if not self.ridge or not all(0 < one < math.inf for one in self.ridge):
            raise InputError(f"compensation.ridge={list(self.ridge)}: give one or more numbers above 0.")
        if self.heldout < 2:
            raise InputError(f"compensation.heldout={self.heldout}: give 2 or more (4: every fourth sample).")


Compensation: TypeAlias = NoCompensation | Magnitude | Linear
