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
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine import packing
from pruning.engine.batch_reader import BatchReader
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.beginnings import Beginnings
from pruning.engine.cost import Cost
from pruning.engine.ends import Ends
from pruning.engine.equal_shapes import treats_branches_alike
from pruning.engine.logprobs import LIKELIHOOD, Readout
from pruning.engine.memory_budget import MemoryBudget
from pruning.engine.pace import Pace
from pruning.engine.partial_head import Parts
from pruning.engine.request import Request
from pruning.models.block_probe import find_blocks
from pruning.models.compiled import compiled
from pruning.models.float32_products import for_any_rows
from pruning.models.units import find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.loader import LanguageModel


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
    _paces: dict[tuple[int, bool], Pace] = field(default_factory=dict)
    _shares_of: dict[str, Sequence[float]] = field(default_factory=dict)
    _made_from: Forward | None = field(default=None, repr=False)

    def pace(self, rows: int, readout: Readout) -> Pace:
        """How many masks are walked at a time, so that a kill costs little.

        It follows the times of requests of as many rows that read as much of the head.
        """
        return self._paces.setdefault((rows, readout.part is None), Pace(self.patience))

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
        _ = self.memory_budget  # made before the copy, so that the copy shares it
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
        pace = self.pace(len(rows), readout)
        return Request(tuple(rows), readout, self.reader, pace, self._compiled, self.watch).run(masks)

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
