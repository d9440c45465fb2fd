"""Hidden states after the last unit, kept so that the whole head can be applied to a mask without running its blocks.

They are kept at the scored positions only, for the masks of one request, while a search bounds losses by a part of
the vocabulary (`partial_head.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine.batching import Batch

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

SHARE = 0.5  # of the room for hidden states that ends may take


@dataclass
class Ends:
    """The states (n, D) at the n targets of each batch, by mask. `masks` are those whose states are all here.

    On several ranks, each keeps those of its own batches, and `masks` is equal on all.
    """

    rows: tuple[Row, ...] = ()
    masks: set[Mask] = field(default_factory=set)
    states: dict[Batch, dict[Mask, Tensor]] = field(default_factory=dict)
    open: bool = False

    def begin(self, rows: tuple[Row, ...]) -> None:
        """Forget all states, and keep those of passes over these rows from now on."""
        self.rows, self.masks, self.states, self.open = rows, set(), {}, True

    def note(self, batch: Batch, mask: Mask, state: Tensor) -> None:
        """Keep a state, if states are being kept."""
        if self.open:
            self.states.setdefault(batch, {})[mask] = state

    def finish(self, masks: Sequence[Mask]) -> None:
        """Keep no more states. Those of `masks` are complete."""
        self.masks, self.open = set(masks), False

    def known(self, rows: tuple[Row, ...], masks: Sequence[Mask]) -> list[Mask]:
        """Those of the masks whose states for these rows are here."""
        return [mask for mask in masks if mask in self.masks] if rows == self.rows else []
