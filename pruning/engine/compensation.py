"""Magnitude compensation: a removed block is replaced by the number by which it made the hidden state grow.

Source: Prune&Comp (arXiv 2507.18212; code chenxinrui-tsinghua/PruneAndComp). Blocks of a pre-norm model let the state
grow; without one, the following blocks meet a state that is too small beside what they add. With states h_i before
block i, the factor of block i is

    s_i = mean over samples of  (mean |h_{i+1}|) / (mean |h_i|)        means over tokens and width

and removing block i turns F_i(h) into s_i * h. Prune&Comp multiplies the embeddings and the output projections of all
earlier blocks by s_i instead. Every norm that reads the state takes the factor out again, so that is the same
function, up to the norms' epsilon; multiplying the state needs no copy of the weights and no tied embeddings.

Prune&Comp removes one block at a time and measures each factor on the model as it then is, pruned and compensated.
The factors are taken here once, of the dense model, for all masks. For blocks that are removed from the last to the
first both are exactly the same, since what comes before a block is whole; else compensation restores the magnitude
that a later block saw in the dense model, and what is left is how much it adds to a state that is turned a little. On
random pre-norm models of six blocks the two are within 2 percent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from pruning.distributed import collectives

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class NoCompensation:
    """Removed blocks are removed."""

    search: ClassVar[bool] = False

    def scales(self, forward: Forward, rows: Sequence[Row]) -> None:
        """No factors."""


@dataclass(frozen=True)
class Magnitude:
    """Removed blocks become factors.

    With `search`, the search sees compensated models, as Prune&Comp's iterative search does; without, only its
    final mask is compensated.
    """

    search: bool = True

    def scales(self, forward: Forward, rows: Sequence[Row]) -> tuple[float, ...]:
        """A factor for each block."""
        return magnitudes(forward, rows)


Compensation: TypeAlias = NoCompensation | Magnitude


def magnitudes(forward: Forward, rows: Sequence[Row]) -> tuple[float, ...]:
    """The factor s_i of each block, of the dense model on some rows; one dense pass."""
    from pruning.engine.dense_pass import states

    found = np.zeros((len(rows), forward.n_blocks))  # by row, so that any number of ranks adds up alike
    for lines, hidden in states(forward, rows):
        for line in lines:
            sizes = [float(state[line.place, : line.length].double().abs().mean()) for state in hidden]
            found[line.row] = np.divide(sizes[1:], sizes[:-1])
    return tuple(collectives.all_sum(found).mean(0).tolist())
