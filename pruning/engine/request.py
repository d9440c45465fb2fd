"""One request for values of rows under masks: walk the masks in groups, try again with less if memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruning.core.mask import Mask
from pruning.distributed import collectives
from pruning.engine.batch_reader import BatchReader
from pruning.engine.beginnings import NOTHING, Wanted, edges, forks
from pruning.engine.device import out_of_memory, peak_memory
from pruning.engine.logprobs import Readout
from pruning.engine.pace import Pace
from pruning.engine.walk_plan import Plan, make_plan
from pruning.models.float32_products import for_any_rows

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

Array = np.ndarray[Any, Any]

# read(batch, share=...): the number of each mask and its values at the targets of a batch with this share of the
# samples.
Read = Callable[..., Iterator[tuple[int, Array]]]


@dataclass(frozen=True)
class Request:
    """Values of a readout, summed over the scored positions of each row.

    `pace` says how many masks are walked at a time, within the limits of the reader's memory budget. Passes run
    within the context `compiled(unit)`. `watch`, if given, is called after each batch: batches done, of how many.
    """

    rows: tuple[Row, ...]
    readout: Readout
    reader: BatchReader
    pace: Pace
    compiled: Callable[[str], AbstractContextManager[None]]
    watch: Callable[[int, int], None] | None = None

    def run(self, masks: Iterable[Mask]) -> Iterator[tuple[Mask, list[float], float]]:
        """Yield each mask, in any order, with each row's sum and the average seconds per mask."""
        masks = list(masks)
        if self.reader.ends.masks and self.readout.part is None:
            given = list(self._from_ends(masks))
            yield from given
            masks = [mask for mask in masks if mask not in {done for done, *_ in given}]
        # In this order, masks with a long common prefix are neighbours, and masks that drop early blocks come first.
        todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(mask.n_units)])
        # A single mask, such as the dense model, comes between requests of a search: it changes nothing that is kept.
        plan, alone = None, len(todo) == 1
        while todo:
            plan = plan or self._plan(todo)
            chunk = todo[: plan.size(self.pace)]
            edge = edges(forks(todo[len(chunk) - 1 :])) if plan.continues else []
            wanted = NOTHING if alone else Wanted(plan.depths, edge)
            read = partial(self.reader.read, masks=chunk, readout=self.readout, wanted=wanted)
            sums, seconds, failed = self._tried(chunk, read)
            # If a rank runs out of memory, all ranks retry; otherwise their next chunks would differ.
            if failed is not None:
                self.reader.beginnings.clear()
                self.reader.ends.drop()
                self.reader.memory_budget.shrink(failed, len(chunk))
                plan = None
                continue
            todo = todo[len(chunk) :]
            self._note(chunk, seconds)
            for mask, values in zip(chunk, sums, strict=True):
                yield mask, values.tolist(), seconds / len(chunk)

    def _plan(self, masks: Sequence[Mask]) -> Plan:
        """Decide how many masks are walked at a time; keep only those states that can be used again."""
        budget, beginnings = self.reader.memory_budget, self.reader.beginnings
        sizes = budget.sizes(self.rows, self.readout, masks[0], beginnings.nbytes())
        sizes = replace(sizes, room=max(0.0, sizes.room - self.reader.ends.reserved))
        batches = collectives.share_of(budget.batches(self.rows))
        others = collectives.all_max(beginnings.nbytes() - beginnings.nbytes(batches))
        leaving = forks(masks)
        plan = make_plan(leaving, masks[0].n_units, replace(sizes, room=max(0.0, sizes.room - others)))
        whole = make_plan(leaving, masks[0].n_units, sizes)
        if (plan.depths, plan.continues) != (whole.depths, whole.continues):
            beginnings.clear(but=batches)
            plan = whole
        if len(masks) > 1:
            beginnings.trim(batches, masks, plan.depths)
        return plan

    def _from_ends(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `run`, of those masks whose states after the last unit are kept; nothing if memory runs out."""
        ends = self.reader.ends
        known = ends.known(self.rows, self.reader.memory_budget.batches(self.rows), masks)
        if not known:
            return
        read = partial(self.reader.read_ends, masks=known, readout=self.readout)
        sums, seconds, failed = self._tried(known, read)
        if failed is not None:
            ends.drop()
            if not out_of_memory(failed):
                raise failed
            return
        self.reader.cost.forward_seconds += seconds
        for mask, values in zip(known, sums, strict=True):
            yield mask, values.tolist(), seconds / len(known)

    def _tried(self, masks: Sequence[Mask], read: Read) -> tuple[Array, float, Exception | None]:
        """The sums (masks, rows) over all batches, the seconds that they took, and the error of a rank, if any."""
        started = time.perf_counter()
        sums, failure = np.zeros((len(masks), len(self.rows))), None
        try:
            self._add(sums, masks[0].unit, read)
        except RuntimeError as error:  # the traceback would keep the failed pass's tensors in memory
            failure = error.with_traceback(None) if out_of_memory(error) else error
        if (failed := collectives.any_failure(failure)) is not None:
            return sums, 0.0, failed
        sums = collectives.all_sum(sums)
        return sums, collectives.all_max(time.perf_counter() - started), None

    @torch.inference_mode()
    def _add(self, sums: Array, unit: str, read: Read) -> None:
        """Add the values of this rank's batches to `sums` (masks, rows), in float64."""
        batches = self.reader.memory_budget.batches(self.rows)
        tokens = sum(batch.ids.numel() for batch in batches)
        mine = collectives.share_of(batches)
        with self.compiled(unit), for_any_rows():
            for done, batch in enumerate(mine, start=1):
                for number, values in read(batch, share=batch.ids.numel() / tokens):
                    np.add.at(sums[number], batch.rows.numpy(), values)
                if self.watch is not None:
                    self.watch(done, len(mine))

    def _note(self, masks: Sequence[Mask], seconds: float) -> None:
        """Count what the walk of these masks took."""
        self.pace.note(len(masks), seconds)
        cost, unit = self.reader.cost, masks[0].unit
        shares = self.reader.shares(unit)
        alone = sum(shares[i] for mask in masks for i in mask.kept)
        cost.block_forwards_alone += alone if unit == "block" else round(alone, 3)
        cost.forward_seconds += seconds
        cost.peak_memory = max(cost.peak_memory, peak_memory(self.reader.model.module))
