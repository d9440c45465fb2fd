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

    On several ranks, each keeps those of its own batches, and `masks` is equal on all. `reserved` is how many bytes
    all states take, on the rank that has most.
    """

    rows: tuple[Row, ...] = ()
    batches: Sequence[Batch] = ()
    reserved: float = 0.0
    masks: set[Mask] = field(default_factory=set)
    states: dict[Batch, dict[Mask, Tensor]] = field(default_factory=dict)
    open: bool = False

    def begin(self, rows: tuple[Row, ...], batches: Sequence[Batch], reserved: float) -> None:
        """Forget all states, and keep those of passes over these rows, in these batches, from now on."""
        self.drop()
        self.rows, self.batches, self.reserved, self.open = rows, batches, reserved, True

    def drop(self) -> None:
        """Forget all states, and keep none."""
        self.rows, self.batches, self.reserved, self.masks, self.states = (), (), 0.0, set(), {}
        self.open = False

    def note(self, batch: Batch, mask: Mask, state: Tensor) -> None:
        """Keep a state, if states are being kept."""
        if self.open:
            self.states.setdefault(batch, {})[mask] = state

    def finish(self, masks: Sequence[Mask]) -> None:
        """Keep no more states. Those of `masks` are complete."""
        self.masks, self.open = set(masks), False

    def known(self, rows: tuple[Row, ...], batches: Sequence[Batch], masks: Sequence[Mask]) -> list[Mask]:
        """Those of the masks whose states are here. If other rows or batches are asked for, all are forgotten."""
        if rows != self.rows or list(map(id, batches)) != list(map(id, self.batches)):
            self.drop()
        return [mask for mask in masks if mask in self.masks]
