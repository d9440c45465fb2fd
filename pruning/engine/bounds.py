"""Bounds of sums over rows, from a part of the vocabulary, and exact sums of the masks that they do not rule out.

The states after the last unit are kept if there is room. So the exact sums of these masks cost no more than the head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pruning.core.mask import Mask
from pruning.distributed import collectives
from pruning.engine.batch_reader import BatchReader
from pruning.engine.batching import Batch
from pruning.engine.beginnings import Beginnings
from pruning.engine.cost import Cost
from pruning.engine.ends import SHARE, Ends
from pruning.engine.memory_budget import MemoryBudget, out_of_memory
from pruning.engine.partial_head import PartialHead, partial_head

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.logprobs import Readout
    from pruning.models.loader import LanguageModel


class Passes(Protocol):
    """What bounds need of `Forward`."""

    model: LanguageModel
    beginnings: Beginnings
    ends: Ends
    parts: Parts
    cost: Cost

    @property
    def memory_budget(self) -> MemoryBudget:
        """The limits on how much is computed at a time."""
        ...

    @property
    def reader(self) -> BatchReader:
        """What reads values from batches."""
        ...

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the model."""
        ...

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """The values of a readout, summed over each row's scored positions."""
        ...

    def added(
        self,
        rows: tuple[Row, ...],
        masks: Sequence[Mask],
        read: Callable[[Batch, float], Iterable[tuple[int, np.ndarray[Any, Any]]]],
    ) -> np.ndarray[Any, Any]:
        """Sums (masks, rows) over this rank's batches."""
        ...


@dataclass
class Parts:
    """The part of the vocabulary that serves some rows, for each tuple of rows that was asked for.

    Only the part that was used last keeps its weights.
    """

    of: dict[tuple[Row, ...], PartialHead | None] = field(default_factory=dict)
    last: PartialHead | None = None

    def get(self, forward: Passes, rows: tuple[Row, ...]) -> PartialHead | None:
        """The part for some rows; None if the model's head cannot be divided."""
        if rows not in self.of:
            dense = [Mask(forward.n_blocks)]

            # After running out of memory, some positions are read again. They then count twice in the choice.
            def read(readout: Readout) -> None:
                for _ in forward.sums(rows, dense, readout):
                    pass

            self.of[rows] = partial_head(forward.model.module, rows, read)
        if self.last is not self.of[rows]:
            self.release()
        self.last = self.of[rows]
        return self.last

    def release(self) -> None:
        """Free the memory of weights; they are made again if they are needed."""
        if self.last is not None:
            self.last.release()


def bounds(
    forward: Passes, rows: Sequence[Row], masks: Sequence[Mask], readout: Readout
) -> Iterator[tuple[Mask, list[float], float]]:
    """Like `forward.sums`, but from a part of the vocabulary; nothing if the model's head cannot be divided.

    The sums are at least as high if `readout` gives log-likelihoods, and at most as high if it gives the divergence
    from the dense model; see `partial_head.py`.
    """
    rows = tuple(rows)
    if (part := forward.parts.get(forward, rows)) is None:
        return
    _keep_ends(forward, rows, masks, readout)
    complete = False
    try:
        yield from forward.sums(rows, masks, replace(readout, part=part))
        complete = forward.ends.open
    finally:
        forward.ends.finish(masks) if complete else forward.ends.drop()


def from_ends(
    forward: Passes, rows: tuple[Row, ...], masks: Sequence[Mask], readout: Readout
) -> Iterator[tuple[Mask, list[float], float]]:
    """Like `forward.sums`, of those masks whose states after the last unit are kept; nothing if memory runs out."""
    known = forward.ends.known(rows, forward.memory_budget.batches(rows), masks)
    if not known:
        return
    started, reader = time.perf_counter(), forward.reader
    try:
        sums, failure = (
            forward.added(rows, known, lambda *at: reader.read_ends(at[0], known, readout, at[1])),
            None,
        )
    except RuntimeError as error:
        failure = error.with_traceback(None) if out_of_memory(error) else error
    if (failed := collectives.any_failure(failure)) is not None:
        forward.ends.drop()
        if not out_of_memory(failed):
            raise failed
        return
    sums = collectives.all_sum(sums)
    seconds = collectives.all_max(time.perf_counter() - started) / len(known)
    forward.cost.forward_seconds += seconds * len(known)
    for mask, values in zip(known, sums, strict=True):
        yield mask, values.tolist(), seconds


def _keep_ends(forward: Passes, rows: tuple[Row, ...], masks: Sequence[Mask], readout: Readout) -> None:
    """Keep states at the scored positions if those of all masks take at most half of the room for states."""
    forward.ends.drop()
    sizes = forward.memory_budget.sizes(rows, readout, masks[0], forward.beginnings.nbytes())
    batches = forward.memory_budget.batches(rows)
    tokens = sum(batch.ids.numel() for batch in batches)
    scored = sum(len(batch.targets) for batch in batches)
    if (reserved := len(masks) * sizes.kept * scored / tokens) <= SHARE * sizes.room:
        forward.ends.begin(rows, batches, reserved)
