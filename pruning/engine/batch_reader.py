"""Read values at the scored positions of one batch under many masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine.batching import Batch
from pruning.engine.beginnings import NOTHING, Beginnings, Notes, Wanted
from pruning.engine.cost import Cost
from pruning.engine.ends import Ends
from pruning.engine.logprobs import (
    LIKELIHOOD,
    Distributions,
    Projection,
    Readout,
    compared_at_once,
    distributions,
    log_totals,
    read_out,
)
from pruning.engine.memory_budget import MemoryBudget
from pruning.engine.prefix_tree import Branch, concatenated, filled, run_masks

if TYPE_CHECKING:
    from pruning.models.loader import LanguageModel


@dataclass(frozen=True)
class BatchReader:
    """Runs batches under masks and reads values from the states after the last unit. The work is added to `cost`.

    `shares` maps a kind of units to the share of a block's parameters that each unit has. `dense_states` keeps the
    dense model's states at the scored positions of a batch, on the CPU, and `dense_totals` the logarithms of its sums
    over the vocabulary there. `ends` keeps states after the last unit while losses are bounded. If `fuse`,
    distributions are compiled.
    """

    model: LanguageModel
    memory_budget: MemoryBudget
    beginnings: Beginnings
    cost: Cost
    scales: tuple[float, ...] | None
    dense_states: MutableMapping[Batch, Tensor]
    dense_totals: MutableMapping[Batch, Tensor]
    shares: Callable[[str], Sequence[float]]
    ends: Ends
    fuse: bool = False

    @property
    def projection(self) -> Projection:
        """The model's head."""
        return replace(self.memory_budget.projection, fuse=self.fuse)

    def read(
        self,
        batch: Batch,
        masks: Sequence[Mask],
        readout: Readout = LIKELIHOOD,
        share: float = 0.0,
        wanted: Wanted = NOTHING,
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Yield the number of each mask, and the readout's values (n,) at the batch's targets.

        The head runs only at the targets. `share` is the batch's share of all samples, used to count block forwards.
        """
        if readout.compares:
            yield from self._compared(batch, masks, readout, share, wanted)
            return
        merged = self._read_at_once(batch, masks[0].unit, readout)
        branches = self._walk(batch, masks, share, wanted)
        for start in range(0, len(branches), merged):
            group = branches[start : start + merged]
            states = [_at(batch, hidden) for hidden, _ in group]
            for state, (_, (number,)) in zip(states, group, strict=True):
                self.ends.note(batch, masks[number], state)
            values = self._read_out(batch, states, readout, merged)
            yield from zip((number for _, (number,) in group), values, strict=True)

    def read_ends(
        self, batch: Batch, masks: Sequence[Mask], readout: Readout, share: float
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """As `read`, from states that are kept."""
        states = [self.ends.states[batch][mask] for mask in masks]
        if readout.compares:
            dense = self._dense_state(batch, masks[0].n_blocks, share)
            yield from self._comparisons(batch, dense, [state.__getitem__ for state in states], readout)
            return
        merged = self._read_at_once(batch, masks[0].unit, readout)
        for start in range(0, len(masks), merged):
            yield from enumerate(
                self._read_out(batch, states[start : start + merged], readout, merged), start
            )

    def _read_at_once(self, batch: Batch, unit: str, readout: Readout) -> int:
        """How many masks the head reads at once. A part of the head is not checked for rows that it treats unlike."""
        if readout.part is not None and self.memory_budget.merging.filled:
            return 1
        return self.memory_budget.merged(batch, unit)

    def _read_out(
        self, batch: Batch, states: Sequence[Tensor], readout: Readout, merged: int
    ) -> np.ndarray[Any, Any]:
        """The readout's values (masks, n) at the n targets of a batch, from the states (n, D) of each mask.

        The head reads `merged` masks at once if passes are filled up to one shape.
        """
        projection, targets = self.projection, batch.targets
        if readout.part is not None:
            projection, targets = readout.part.of(projection), readout.part.places(targets)
        full = merged if self.memory_budget.merging.filled else len(states)
        flat, targets = concatenated(filled(states, full)), targets.repeat(full)
        values: np.ndarray[Any, Any] = read_out(readout, projection, flat, None, targets).numpy()
        return values.reshape(full, -1)[: len(states)]

    def _compared(
        self, batch: Batch, masks: Sequence[Mask], readout: Readout, share: float, wanted: Wanted
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """As `read`, for a readout that compares each mask with the dense model, which is projected only once."""
        dense = self._dense_state(batch, masks[0].n_blocks, share)
        branches = self._walk(batch, masks, share, wanted)
        if self.ends.open:
            for hidden, (number,) in branches:
                self.ends.note(batch, masks[number], _at(batch, hidden))
        states = [partial(_at, batch, hidden) for hidden, _ in branches]
        numbers = [number for _, (number,) in branches]
        for place, values in self._comparisons(batch, dense, states, readout):
            yield numbers[place], values

    def _comparisons(
        self, batch: Batch, dense: Tensor, states: Sequence[Callable[[slice], Tensor]], readout: Readout
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """The values at a batch's targets for each of the `states`, which give a mask's states at some targets."""
        projection, targets = self.projection, batch.targets
        if readout.part is not None:
            projection, targets = readout.part.of(projection), readout.part.places(targets)
        values = np.zeros((len(states), len(targets)))
        step = compared_at_once(self.model.device.type, projection.vocabulary, projection.limit)
        for start in range(0, len(targets), step):
            at = slice(start, start + step)
            known = distributions(projection, dense[at].to(states[0](at).device))
            inside = 1.0 if readout.part is None else self._inside(batch, dense, at, known)
            for number, state in enumerate(states):
                found = read_out(readout, projection, state(at), known, targets[at]).numpy()
                values[number, at] = inside * found
        yield from enumerate(values)

    def _inside(
        self, batch: Batch, dense: Tensor, at: slice, part: Sequence[Distributions]
    ) -> np.ndarray[Any, Any]:
        """The dense model's probability of a part of the vocabulary at some targets, from its distributions there."""
        if batch not in self.dense_totals:
            device = part[0].logits.device
            self.dense_totals[batch] = log_totals(self.projection, dense.to(device))
        inside = torch.cat([distribution.log_total.cpu() for distribution in part])
        return np.asarray((inside - self.dense_totals[batch][at]).exp().clamp(max=1.0))

    def _walk(
        self, batch: Batch, masks: Sequence[Mask], share: float, wanted: Wanted = NOTHING
    ) -> list[Branch]:
        """The branches of a batch after the last unit. The cost of computing them is added to `cost`."""
        unit = masks[0].unit
        shares = self.shares(unit)

        def count(index: int, run: int) -> None:
            self.cost.block_tokens += round(run * batch.ids.numel() * shares[index])
            self.cost.block_forwards += run * share * shares[index]

        merged, notes = self.memory_budget.merged(batch, unit), Notes(self.beginnings.of(batch, unit), wanted)
        fill = self.memory_budget.merging.filled
        branches = run_masks(self.model, batch, masks, merged, count, self.scales, notes, fill)
        if wanted is not NOTHING:
            notes.end(masks[-1])
        return branches

    def _dense_state(self, batch: Batch, n_blocks: int, share: float) -> Tensor:
        """The dense model's states (n, D) at the batch's targets, computed once and kept on the CPU."""
        if batch not in self.dense_states:
            ((hidden, _),) = self._walk(batch, [Mask(n_blocks)], share)
            self.dense_states[batch] = _at(batch, hidden).cpu()
        return self.dense_states[batch]


def _at(batch: Batch, hidden: Tensor, at: slice = slice(None)) -> Tensor:
    """The states (n, D) at some of a batch's targets, from states (B, T, D)."""
    return hidden.flatten(0, 1)[batch.indices[at].to(hidden.device)]
