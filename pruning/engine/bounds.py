"""Bounds of sums over rows, from a part of the vocabulary.

The states after the last unit are kept if there is room. So the exact sums of the masks that are not ruled out cost
no more than the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pruning.core.mask import Mask
from pruning.engine.head import PartialHead, partial_head
from pruning.engine.prefix_tree import SHARE

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward
    from pruning.engine.head import Readout


def bounds(
    forward: Forward, rows: Sequence[Row], masks: Sequence[Mask], readout: Readout
) -> Iterator[tuple[Mask, list[float], float]]:
    """Like `forward.sums`, but from a part of the vocabulary; nothing if the model's head cannot be divided.

    The sums are at least as high if `readout` gives log-likelihoods, and at most as high if it gives the divergence
    from the dense model; see `partial_head.py`.
    """
    rows = tuple(rows)
    if (part := _part(forward, rows)) is None:
        return
    _keep_ends(forward, rows, masks, readout)
    complete = False
    try:
        yield from forward.sums(rows, masks, replace(readout, part=part))
        complete = forward.ends.open
    finally:
        forward.ends.finish(masks) if complete else forward.ends.drop()


def _part(forward: Forward, rows: tuple[Row, ...]) -> PartialHead | None:
    """The part of the vocabulary that serves some rows; None if the model's head cannot be divided."""
    dense = [Mask(forward.n_blocks)]

    # After running out of memory, some positions are read again. They then count twice in the choice.
    def read(readout: Readout) -> None:
        for _ in forward.sums(rows, dense, readout):
            pass

    return forward.parts.get(rows, lambda: partial_head(forward.model.module, rows, read))


def _keep_ends(forward: Forward, rows: tuple[Row, ...], masks: Sequence[Mask], readout: Readout) -> None:
    """Keep states at the scored positions if those of all masks take at most half of the room for states."""
    forward.ends.drop()
    sizes = forward.memory_budget.sizes(rows, readout, masks[0], forward.beginnings.nbytes())
    batches = forward.memory_budget.batches(rows)
    tokens = sum(batch.ids.numel() for batch in batches)
    scored = sum(len(batch.targets) for batch in batches)
    if (reserved := len(masks) * sizes.kept * scored / tokens) <= SHARE * sizes.room:
        forward.ends.begin(rows, batches, reserved)
