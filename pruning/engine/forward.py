"""Compute log-likelihoods of token rows under many masks. The program spends most of its time here.

A mask decides for each unit, a block or a sub-layer of a block, whether to keep or drop it. Masks with the same
decisions up to some unit share the computation up to that unit. `Forward` walks the tree of decisions unit by unit.
It holds one hidden state for each distinct prefix of decisions, and runs a unit once for each distinct prefix that
keeps the unit, also if masks are walked in several groups or were begun by the request before (`beginnings.py`). A
dropped unit costs nothing, and the weights of a unit that no mask keeps are never read. The results equal those of a
separate masked forward pass for each mask, and do not depend on which masks are evaluated together.

A round of greedy search over N blocks costs about N^2 / 2 block forwards this way instead of N^2. Scoring all
pairs of blocks costs N^3 / 6 instead of N^3 / 2.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.distributed import collectives
from pruning.engine import packing
from pruning.engine.batch_reader import BatchReader
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.beginnings import NOTHING, Beginnings, Wanted, edges, forks
from pruning.engine.cost import Cost
from pruning.engine.device import out_of_memory, peak_memory
from pruning.engine.ends import Ends
from pruning.engine.equal_shapes import treats_branches_alike
from pruning.engine.logprobs import LIKELIHOOD, Readout
from pruning.engine.memory_budget import MemoryBudget
from pruning.engine.pace import Pace
from pruning.engine.partial_head import Parts
from pruning.engine.walk_plan import Plan, make_plan
from pruning.models.block_probe import find_blocks
from pruning.models.compiled import compiled
from pruning.models.float32_products import for_any_rows
from pruning.models.units import find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.loader import LanguageModel


# read(batch, share=...): the number of each mask and its values at the targets of a batch with this share of the
# samples.
Read = Callable[..., Iterator[tuple[int, np.ndarray[Any, Any]]]]


@dataclass
class Forward:
    """Forward passes of one model.

    `batch_tokens` limits the tokens, padding included, that a block processes at once. `memory` limits the bytes in
    use besides the weights (None: measured on the device). To keep within this limit, fewer masks are walked at a
    time, so fewer masks share computation. If `memory` is given, batches can also become smaller. If the process is
    killed, about `patience` seconds of work are lost. `merge` says whether branches may run as one batch (None: only
    in full precision on a CPU, or if weights are on disk). If `scales` is given, a dropped unit i multiplies the
    hidden state by `scales[i]`. `compile` runs blocks and sums over the vocabulary through
    torch.compile; sub-layers run uncompiled. With `bounds`, searches may rule masks out by bounds (`bounds.py`).
    """

    model: LanguageModel
    batch_tokens: int = 2048
    memory: int | None = None
    patience: float = 20.0
    merge: bool | None = None
    scales: tuple[float, ...] | None = None
    cost: Cost = field(default_factory=Cost)
    watch: Callable[[int, int], None] | None = None  # called after each batch: batches done, of how many
    beginnings: Beginnings = field(default_factory=Beginnings)
    compile: bool = False
    bounds: bool = False
    ends: Ends = field(default_factory=Ends)
    parts: Parts = field(default_factory=Parts)
    _dense_states: WeakKeyDictionary[Batch, Tensor] = field(default_factory=WeakKeyDictionary)
    _dense_totals: WeakKeyDictionary[Batch, Tensor] = field(default_factory=WeakKeyDictionary)
    _shares_of: dict[str, Sequence[float]] = field(default_factory=dict)
    _made_from: Forward | None = field(default=None, repr=False)

    @cached_property
    def pace(self) -> Pace:
        """How many masks are walked at a time, so that a kill costs little."""
        return Pace(self.patience)

    @cached_property
    def memory_budget(self) -> MemoryBudget:
        """The limits on how much is computed at a time."""
        # A reference to itself would keep the memory of unused passes until Python's garbage collector runs.
        module, own = self.model.module, weakref.proxy(self)
        return MemoryBudget(
            self.model,
            self.batch_tokens,
            self.memory,
            self.merge,
            lambda rows: packing.lines(module, rows, own._dense),
            lambda *passed: own._alike(*passed),
        )

    def with_scales(self, scales: tuple[float, ...] | None) -> Forward:
        """The same forward passes with other factors for dropped blocks. Batches, caches and the cost are shared."""
        _ = self.memory_budget, self.pace  # made before the copy, so that the copy shares them
        view = copy.copy(self)
        view._made_from = self  # whose memory budget they share
        if scales != self.scales:
            view.scales, view.beginnings, view.ends = scales, Beginnings(), Ends()
        return view

    def fresh(self) -> Forward:
        """New forward passes with the same settings and cost but no shared states, for weights that have changed."""
        return Forward(
            self.model,
            self.batch_tokens,
            self.memory,
            self.patience,
            self.merge,
            self.scales,
            self.cost,
            compile=self.compile,
            bounds=self.bounds,
        )

    def release(self) -> None:
        """Free the memory of states and weights that are kept for a search."""
        self.beginnings.clear()
        self.ends.drop()
        self.parts.release()

    def watched(self, watch: Callable[[int, int], None]) -> Forward:
        """The same forward passes, which call `watch` after each batch."""
        view = self.with_scales(self.scales)
        view.watch = watch
        return view

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Yield each mask, in any order, with each row's log-likelihood in nats and the average seconds per mask.

        With several ranks, each runs some of the batches, and all ranks get the sums.
        """
        return self.sums(rows, masks, LIKELIHOOD)

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `loglikelihoods`, but for any readout, whose values are summed over each row's scored positions."""
        rows, masks = tuple(rows), list(masks)
        if self.ends.masks and readout.part is None:
            given = list(self._from_ends(rows, masks, readout))
            yield from given
            masks = [mask for mask in masks if mask not in {done for done, *_ in given}]
        # In this order, masks with a long common prefix are neighbours, and masks that drop early blocks come first.
        todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(mask.n_units)])
        # A single mask, such as the dense model, comes between requests of a search: it changes nothing that is kept.
        plan, alone = None, len(todo) == 1
        while todo:
            plan = plan or self._plan(rows, todo, readout)
            chunk = todo[: plan.size(self.pace)]
            edge = edges(forks(todo[len(chunk) - 1 :])) if plan.continues else []
            wanted = NOTHING if alone else Wanted(plan.depths, edge)
            sums, seconds, failed = self._tried(
                rows, chunk, partial(self.reader.read, masks=chunk, readout=readout, wanted=wanted)
            )
            # If a rank runs out of memory, all ranks retry; otherwise their next chunks would differ.
            if failed is not None:
                self.beginnings.clear()
                self.ends.drop()
                self.memory_budget.shrink(failed, len(chunk))
                plan = None
                continue
            todo = todo[len(chunk) :]
            self._note(chunk, seconds)
            for mask, values in zip(chunk, sums, strict=True):
                yield mask, values.tolist(), seconds / len(chunk)

    def _plan(self, rows: tuple[Row, ...], masks: Sequence[Mask], readout: Readout) -> Plan:
        """Decide how many masks are walked at a time; keep only those states that can be used again."""
        sizes = self.memory_budget.sizes(rows, readout, masks[0], self.beginnings.nbytes())
        sizes = replace(sizes, room=max(0.0, sizes.room - self.ends.reserved))
        batches = collectives.share_of(self.memory_budget.batches(rows))
        others = collectives.all_max(self.beginnings.nbytes() - self.beginnings.nbytes(batches))
        leaving = forks(masks)
        plan = make_plan(leaving, masks[0].n_units, replace(sizes, room=max(0.0, sizes.room - others)))
        whole = make_plan(leaving, masks[0].n_units, sizes)
        if (plan.depths, plan.continues) != (whole.depths, whole.continues):
            self.beginnings.clear(but=batches)
            plan = whole
        if len(masks) > 1:
            self.beginnings.trim(batches, masks, plan.depths)
        return plan

    def _from_ends(
        self, rows: tuple[Row, ...], masks: Sequence[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `sums`, of those masks whose states after the last unit are kept; nothing if memory runs out."""
        known = self.ends.known(rows, self.memory_budget.batches(rows), masks)
        if not known:
            return
        read = partial(self.reader.read_ends, masks=known, readout=readout)
        sums, seconds, failed = self._tried(rows, known, read)
        if failed is not None:
            self.ends.drop()
            if not out_of_memory(failed):
                raise failed
            return
        self.cost.forward_seconds += seconds
        for mask, values in zip(known, sums, strict=True):
            yield mask, values.tolist(), seconds / len(known)

    def _tried(
        self, rows: tuple[Row, ...], masks: Sequence[Mask], read: Read
    ) -> tuple[np.ndarray[Any, Any], float, Exception | None]:
        """The sums (masks, rows) over all batches, the seconds that they took, and the error of a rank, if any."""
        started = time.perf_counter()
        sums, failure = np.zeros((len(masks), len(rows))), None
        try:
            self._add(sums, rows, masks, read)
        except RuntimeError as error:  # the traceback would keep the failed pass's tensors in memory
            failure = error.with_traceback(None) if out_of_memory(error) else error
        if (failed := collectives.any_failure(failure)) is not None:
            return sums, 0.0, failed
        sums = collectives.all_sum(sums)
        return sums, collectives.all_max(time.perf_counter() - started), None

    @torch.inference_mode()
    def _add(
        self, sums: np.ndarray[Any, Any], rows: tuple[Row, ...], masks: Sequence[Mask], read: Read
    ) -> None:
        """Add the values of this rank's batches to `sums` (masks, rows), in float64."""
        batches = self.memory_budget.batches(rows)
        tokens = sum(batch.ids.numel() for batch in batches)
        mine = collectives.share_of(batches)
        with self._compiled(masks[0].unit), for_any_rows():
            for done, batch in enumerate(mine, start=1):
                for number, values in read(batch, share=batch.ids.numel() / tokens):
                    np.add.at(sums[number], batch.rows.numpy(), values)
                if self.watch is not None:
                    self.watch(done, len(mine))

    def _compiled(self, unit: str) -> AbstractContextManager[None]:
        if not self.compile or unit != "block":
            return nullcontext()
        return compiled(find_blocks(self.model.module))

    @property
    def reader(self) -> BatchReader:
        """Reads batches with these settings."""
        return BatchReader(
            self.model,
            self.memory_budget,
            self.beginnings,
            self.cost,
            self.scales,
            self._dense_states,
            self._dense_totals,
            self._shares,
            self.ends,
            self.compile,
        )

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the model."""
        return len(find_blocks(self.model.module).modules)

    def n_units(self, unit: str) -> int:
        """The number of units of the model: blocks, or sub-layers of blocks."""
        return len(find_chain(self.model.module, unit))

    def _shares(self, unit: str) -> Sequence[float]:
        """The share of a block's parameters that each unit has."""
        if unit not in self._shares_of:
            self._shares_of[unit] = find_chain(self.model.module, unit).block_shares()
        return self._shares_of[unit]

    def _note(self, masks: Sequence[Mask], seconds: float) -> None:
        self.pace.note(len(masks), seconds)
        shares = self._shares(masks[0].unit)
        alone = sum(shares[i] for mask in masks for i in mask.kept)
        self.cost.block_forwards_alone += alone if masks[0].unit == "block" else round(alone, 3)
        self.cost.forward_seconds += seconds
        self.cost.peak_memory = max(self.cost.peak_memory, peak_memory(self.model.module))

    @torch.inference_mode()
    def _alike(self, batch: Batch, unit: str, copies: int) -> bool:
        """Whether a number of branches of a batch can be merged so that no branch depends on the others."""
        with self._compiled(unit), for_any_rows():
            return treats_branches_alike(self.model, batch, unit, copies, self.reader.projection)

    @torch.inference_mode()
    def _dense(self, rows: Sequence[Row], lines: Sequence[TokenLine]) -> np.ndarray[Any, Any]:
        """Log-likelihoods (rows,) under the dense model, computed on the given lines of these rows."""
        sums = np.zeros(len(rows))
        for batch in make_batches(lines, self.memory_budget.batch_tokens):
            for _, values in self.reader.read(batch, [Mask(self.n_blocks)]):
                np.add.at(sums, batch.rows.numpy(), values)
        return sums
