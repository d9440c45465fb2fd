"""Compute log-likelihoods of token rows under many masks. The program spends most of its time here.

A mask says which units are dropped; a unit is a block or a sub-layer of a block. The results equal those of a
separate masked forward pass for each mask, and do not depend on which masks are evaluated together. The steps:

    request    rows, masks and what to read (`Readout`)                                  `WalkRequest`
    plan       how many masks are walked at a time, which states are kept between walks  `prefix_tree.make_plan`
    batches    the rows as padded or packed tokens                                       `batching`
    blocks     a walk of one batch through the tree of the masks' decisions              `prefix_tree.run_masks`
    head       the states at the scored positions become next-token distributions        `head`
    terms      the readout's values, summed for each row

Masks that agree on the first units share one run of these units. This reduces a round of greedy search over N
blocks from N^2 to about N^2 / 2 block forwards, and scoring all pairs of blocks from N^3 / 2 to N^3 / 6.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine import collectives
from pruning.engine.batching import Batch, TokenLine, make_batches, token_lines
from pruning.engine.devices import out_of_memory, peak_memory
from pruning.engine.head import LIKELIHOOD, Distributions, PartialHead, Readout, distributions, read_out
from pruning.engine.memory import MemoryBudget
from pruning.engine.prefix_tree import (
    Beginnings,
    Branch,
    Ends,
    Pace,
    WalkPlan,
    Wanted,
    concatenated,
    edges,
    forks,
    make_plan,
    run_masks,
)
from pruning.models.products import for_any_rows

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.placement import LanguageModel

Array = np.ndarray[Any, Any]
Values = dict[Mask, tuple[list[float], float]]  # each row's value, and the seconds that the mask took
# read(batch, share=...) returns the values (masks, n) at the batch's n targets; `share` is the batch's share of all
# samples.
Read = Callable[..., Array]
StatesAt = Callable[[slice], Tensor]  # the states (n, D) of a mask at some of a batch's targets
ALL = slice(None)
# A request for only the dense model keeps its states while the kept ones have fewer bytes than this.
DENSE_BYTES = 1 << 28


@dataclass
class Cost:
    """The cost of forward passes. A block forward is one run of one block on all samples.

    A run of a sub-layer counts as a fraction of a block forward, namely its share of the block's parameters.

    `block_forwards_alone` is what `block_forwards` would be if each mask were evaluated alone. `block_tokens` counts
    a token once for each block that processes it. `peak_memory` is in bytes.
    """

    block_forwards: float = 0.0
    block_forwards_alone: float = 0
    block_tokens: int = 0
    forward_seconds: float = 0.0
    peak_memory: int = 0

    def plus(self, other: Cost) -> Cost:
        """The sum of the two costs; for `peak_memory`, the maximum."""
        return Cost(
            round(self.block_forwards + other.block_forwards, 3),
            self.block_forwards_alone + other.block_forwards_alone,
            self.block_tokens + other.block_tokens,
            round(self.forward_seconds + other.forward_seconds, 3),
            max(self.peak_memory, other.peak_memory),
        )

    def over_ranks(self) -> Cost:
        """The cost over all ranks: the sum of their work, and the maxima of their time and memory."""
        work = np.array([self.block_forwards, self.block_tokens], dtype=float)
        forwards, tokens = collectives.all_sum(work)
        seconds, memory = collectives.all_max(self.forward_seconds), collectives.all_max(self.peak_memory)
        return Cost(float(forwards), self.block_forwards_alone, int(tokens), seconds, int(memory))


@dataclass
class Forward:
    """Forward passes of one model.

    A block processes at most `batch_tokens` tokens at once, padding included, unless one line is longer. If `scales`
    is given, a dropped unit i multiplies the hidden state by `scales[i]`. If `watch` is given, it is called after
    each batch with the numbers of finished and of all batches.
    """

    model: LanguageModel
    batch_tokens: int = 2048
    scales: tuple[float, ...] | None = None
    cost: Cost = field(default_factory=Cost)
    watch: Callable[[int, int], None] | None = None
    # What is kept between requests:
    beginnings: Beginnings = field(default_factory=Beginnings)
    ends: Ends | None = None
    # If `together` is not empty, each request also walks these masks, and `known` keeps all values for later
    # requests. If `keep` is above 0, the states before unit `keep` are kept, too.
    together: tuple[Mask, ...] = ()
    keep: int = 0
    known: dict[tuple[tuple[Row, ...], Readout], Values] = field(default_factory=dict)
    parts: dict[tuple[Row, ...], PartialHead | None] = field(default_factory=dict)
    single: Forward | None = None  # in float32 (`dense_pass.in_float32`)
    # Keys: the number of rows, and whether the whole head is read.
    paces: dict[tuple[int, bool], Pace] = field(default_factory=dict)
    memory_budget: MemoryBudget = field(init=False, repr=False)
    # At a batch's targets: the dense model's states, on the CPU, and the logarithm of its sum of exp(logit).
    _dense_states: WeakKeyDictionary[Batch, Tensor] = field(default_factory=WeakKeyDictionary)
    _dense_totals: WeakKeyDictionary[Batch, Tensor] = field(default_factory=WeakKeyDictionary)
    _shares: dict[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory_budget = MemoryBudget(self.model, self.batch_tokens)

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Yield each mask, in any order, with each row's log-likelihood in nats and the average seconds per mask.

        With several ranks, each rank runs some of the batches, and all ranks get the sums.
        """
        return self.sums(rows, masks, LIKELIHOOD)

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `loglikelihoods`, but sums the values of any readout over each row's scored positions."""
        request = WalkRequest(self, tuple(rows), readout)
        if not self.together:
            yield from request.run(masks)
            return
        known, masks = self.known.setdefault((request.rows, readout), {}), list(masks)
        if not known.keys() >= {*masks}:
            todo = {*masks, *self.together} - known.keys()
            known.update((mask, (values, seconds)) for mask, values, seconds in request.run(todo))
        yield from ((mask, *known[mask]) for mask in masks)

    def beside(self, masks: Sequence[Mask]) -> Forward:
        """A copy in which the first request for one of `masks` computes the values of all of them.

        The masks share one walk, and later requests reuse its values. If some masks are over blocks and some over
        sub-layers, nothing is shared.
        """
        view = copy.copy(self)
        view.together = tuple(masks) if len({mask.unit for mask in masks}) == 1 else ()
        return view

    def with_scales(self, scales: tuple[float, ...] | None) -> Forward:
        """A copy with these factors for dropped units. If they differ from the current ones, no states are reused."""
        view = copy.copy(self)
        if scales != self.scales:
            view.scales, view.beginnings, view.ends, view.known = scales, Beginnings(), None, {}
            view.single = None
        return view

    def watched(self, watch: Callable[[int, int], None]) -> Forward:
        """A copy that calls `watch` after each batch."""
        view = copy.copy(self)
        view.watch = watch
        return view

    def fresh(self) -> Forward:
        """A new `Forward` with the same settings and the same `cost`, for use after weights have changed.

        Only the states before unit `keep` are reused, so the weights of earlier units must be unchanged.
        """
        new = Forward(self.model, self.batch_tokens, self.scales, self.cost)
        if self.keep:
            new.memory_budget, new.beginnings = self.memory_budget, self.beginnings
        return new

    def release(self) -> None:
        """Free the memory of the states, values and weights that are kept for a search."""
        self.beginnings.clear()
        self.ends = self.single = None
        self.known.clear()
        self.parts.clear()

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the model."""
        return len(self.model.chain())

    def n_units(self, unit: str) -> int:
        """The number of units of the model: blocks, or sub-layers of blocks."""
        return len(self.model.chain(unit))

    def shares(self, unit: str) -> Sequence[float]:
        """Each unit's share of its block's parameters."""
        if unit not in self._shares:
            self._shares[unit] = self.model.chain(unit).block_shares()
        return self._shares[unit]

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches of some rows. An item's choices share a line if the model allows it."""
        lines = self.memory_budget.lines
        if rows not in lines:
            lines[rows] = token_lines(self.model.module, rows, self._dense_likelihoods)
        return self.memory_budget.batches(rows)

    @torch.inference_mode()
    def _dense_likelihoods(self, rows: Sequence[Row], lines: Sequence[TokenLine]) -> Array:
        """The rows' log-likelihoods under the dense model, computed on these lines, of shape (rows,)."""
        sums = np.zeros(len(rows))
        for batch in make_batches(lines, self.memory_budget.batch_tokens):
            (values,) = self.read(batch, [Mask(self.n_blocks)], LIKELIHOOD)
            np.add.at(sums, batch.rows.numpy(), values)
        return sums

    # One batch: walk the blocks, then read values from the states after the last unit.

    def read(
        self,
        batch: Batch,
        masks: Sequence[Mask],
        readout: Readout,
        share: float = 0.0,
        wanted: Wanted | None = None,
        ends: Ends | None = None,
    ) -> Array:
        """The readout's values (masks, n) at the batch's n targets, in float64.

        They are copied from a GPU once, so the program waits for it once for all masks. The head runs only at the
        targets. `share` is the batch's share of all samples, used to count block forwards.
        If `ends` is given, the states come from it, and no block runs. If only the dense model is read, its states
        are kept, because bounds read it again.
        """
        dense = self._dense_state(batch, share) if readout.compares else None
        known = {} if ends is None else ends.states[batch]
        if [*masks] == [whole := Mask(self.n_blocks)] and readout.part is None and self._keeps_dense(batch):
            known = {whole: self._dense_state(batch, share).to(self.model.device)}
        if known:
            kept = [known[mask].__getitem__ for mask in masks]
            return self._values(batch, kept, readout, dense).cpu().numpy()
        branches = self._walk(batch, masks, share, wanted)
        branches.sort(key=lambda branch: branch[1])  # in the order of the masks
        states: list[StatesAt] = [partial(_at, batch, hidden) for hidden, _ in branches]
        if self.ends is not None and self.ends.masks is None:
            last = self.ends.states.setdefault(batch, {})
            last.update((mask, state(ALL)) for mask, state in zip(masks, states, strict=True))
            states = [last[mask].__getitem__ for mask in masks]
        return self._values(batch, states, readout, dense).cpu().numpy()

    def _walk(
        self, batch: Batch, masks: Sequence[Mask], share: float, wanted: Wanted | None = None
    ) -> list[Branch]:
        """The masks' states of a batch after the last unit. The cost of computing them is added to `cost`."""
        shares = self.shares(unit := masks[0].unit)

        def count(index: int, run: int) -> None:
            self.cost.block_tokens += round(run * batch.ids.numel() * shares[index])
            self.cost.block_forwards += run * share * shares[index]

        merged, kept = self.memory_budget.merged(batch), self.beginnings.of(batch, unit)
        return run_masks(self.model, batch, masks, merged, count, self.scales, kept, wanted)

    def _keeps_dense(self, batch: Batch) -> bool:
        """Whether the dense model's states of a batch are kept, or may be."""
        return batch in self._dense_states or sum(s.nbytes for s in self._dense_states.values()) < DENSE_BYTES

    def _dense_state(self, batch: Batch, share: float) -> Tensor:
        """The dense model's states (n, D) at the batch's targets, computed once and kept on the CPU."""
        if batch not in self._dense_states:
            ((hidden, _),) = self._walk(batch, [Mask(self.n_blocks)], share)
            self._dense_states[batch] = _at(batch, hidden, ALL).cpu()
        return self._dense_states[batch]

    def _values(
        self, batch: Batch, states: Sequence[StatesAt], readout: Readout, dense: Tensor | None
    ) -> Tensor:
        """The readout's values (masks, n) at a batch's n targets, for the masks whose states are given."""
        whole, part = self.memory_budget.projection(), readout.part
        projection, targets = whole, batch.scored(self.model.device)[1]
        if part is not None:
            projection, targets = part.of(whole), part.places(targets)
        if dense is None:
            merged, found = self.memory_budget.merged(batch), []
            for start in range(0, len(states), merged):
                group = [state(ALL) for state in states[start : start + merged]]
                flat, wanted = concatenated(group), targets.repeat(len(group))
                found.append(read_out(readout, projection, flat, None, wanted).view(len(group), -1))
            return torch.cat(found)
        columns = []
        step = projection.compared_at_once(self.model.device.type)
        for start in range(0, len(targets), step):  # the dense model is projected once for all masks
            at = slice(start, start + step)
            known = list(distributions(projection, dense[at].to(states[0](at).device)))
            values = torch.stack(
                [read_out(readout, projection, state(at), known, targets[at]) for state in states]
            )
            if part is not None:  # times the dense model's probability of the part
                if batch not in self._dense_totals:
                    on_device = dense.to(known[0].logits.device)
                    self._dense_totals[batch] = _log_totals(distributions(whole, on_device))
                log_inside = _log_totals(known) - self._dense_totals[batch][at]
                values *= log_inside.exp().clamp(max=1.0)
            columns.append(values)
        return torch.cat(columns, dim=1)


def _at(batch: Batch, hidden: Tensor, at: slice) -> Tensor:
    """The states (n, D) at some of a batch's targets, from states (B, T, D)."""
    return hidden.flatten(0, 1)[batch.scored(hidden.device)[0][at]]


def _log_totals(found: Iterable[Distributions]) -> Tensor:
    """The log-sum-exp of the logits at each position, in float64."""
    return torch.cat([distribution.log_total for distribution in found])


@dataclass(frozen=True)
class WalkRequest:
    """A request for a readout's values, summed over each row's scored positions, for many masks.

    The masks are walked in groups. If memory runs out, the request continues with fewer masks or tokens at a time.
    """

    forward: Forward
    rows: tuple[Row, ...]
    readout: Readout

    def run(self, masks: Iterable[Mask]) -> Iterator[tuple[Mask, list[float], float]]:
        """Yield each mask, in any order, with each row's sum and the average seconds per mask."""
        forward, masks = self.forward, list(masks)
        if self.readout.part is None:
            given = list(self._from_ends(masks))
            yield from given
            masks = [mask for mask in masks if mask not in {done for done, *_ in given}]
        # In this order, masks with a long common prefix are neighbours, and masks that drop early blocks come first.
        todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(mask.n_units)])
        # A single mask, such as the dense model, can interrupt a search, so its request changes no states.
        plan, alone = None, len(todo) == 1
        pace = forward.paces.setdefault((len(self.rows), self.readout.part is None), Pace())
        while todo:
            plan = plan or self._plan(todo)
            chunk = todo[: plan.size(pace)]
            edge = edges(forks(todo[len(chunk) - 1 :])) if plan.continues else []
            depths: Collection[int] = plan.depths
            if forward.together:  # no related request follows masks that are measured together
                depths = [forward.keep] if forward.keep and plan.continues else []
            wanted = None if alone else Wanted(depths, edge)
            read = partial(forward.read, masks=chunk, readout=self.readout, wanted=wanted)
            sums, seconds, failed = self._tried(chunk, read)
            # If a rank runs out of memory, all ranks retry; otherwise their next chunks would differ.
            if failed is not None:
                forward.beginnings.clear()
                forward.ends = forward.single = None
                forward.memory_budget.shrink(failed, len(chunk))
                plan = None
                continue
            todo = todo[len(chunk) :]
            pace.note(len(chunk), seconds)
            self._count(chunk, seconds)
            for mask, values in zip(chunk, sums, strict=True):
                yield mask, values.tolist(), seconds / len(chunk)

    def _plan(self, masks: Sequence[Mask]) -> WalkPlan:
        """Decide how many masks are walked at a time, and delete kept states that cannot be used again."""
        budget, beginnings = self.forward.memory_budget, self.forward.beginnings
        self.forward.batches(self.rows)
        sizes = budget.sizes(self.rows, beginnings.nbytes())
        if self.forward.ends is not None:
            sizes = replace(sizes, room=max(0.0, sizes.room - self.forward.ends.reserved))
        batches = collectives.share_of(budget.batches(self.rows))
        others = collectives.all_max(beginnings.nbytes() - beginnings.nbytes(batches))
        leaving = forks(masks)
        plan = make_plan(leaving, masks[0].n_units, replace(sizes, room=max(0.0, sizes.room - others)))
        whole = make_plan(leaving, masks[0].n_units, sizes)
        if (plan.depths, plan.continues) != (whole.depths, whole.continues):
            beginnings.clear(but=batches)  # the states of other rows take too much room
            plan = whole
        if len(masks) > 1:
            beginnings.trim(batches, masks, plan.depths)
        return plan

    def _from_ends(self, masks: Sequence[Mask]) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `run`, but only for masks whose final states are kept (`Ends`); nothing if memory runs out."""
        if (ends := self.forward.ends) is None or ends.masks is None:
            return
        if ends.rows != self.rows or [*map(id, ends.batches)] != [*map(id, self.forward.batches(self.rows))]:
            self.forward.ends = None  # the request is for other rows or batches
            return
        if not (known := [mask for mask in masks if mask in ends.masks]):
            return
        read = partial(self.forward.read, masks=known, readout=self.readout, ends=ends)
        sums, seconds, failed = self._tried(known, read)
        if failed is not None:
            self.forward.ends = None
            if not out_of_memory(failed):
                raise failed
            return
        self.forward.cost.forward_seconds += seconds
        for mask, values in zip(known, sums, strict=True):
            yield mask, values.tolist(), seconds / len(known)

    def _tried(self, masks: Sequence[Mask], read: Read) -> tuple[Array, float, Exception | None]:
        """The sums (masks, rows) over all batches, the seconds taken, and an error if a rank failed."""
        started = time.perf_counter()
        sums, failure = np.zeros((len(masks), len(self.rows))), None
        try:
            self._add(sums, read)
        except RuntimeError as error:  # the traceback would keep the failed pass's tensors in memory
            failure = error.with_traceback(None) if out_of_memory(error) else error
        if (failed := collectives.any_failure(failure)) is not None:
            return sums, 0.0, failed
        sums = collectives.all_sum(sums)
        return sums, collectives.all_max(time.perf_counter() - started), None

    @torch.inference_mode()
    def _add(self, sums: Array, read: Read) -> None:
        """Add the values of this rank's batches to `sums` (masks, rows), in float64."""
        forward, batches = self.forward, self.forward.batches(self.rows)
        tokens = sum(batch.ids.numel() for batch in batches)
        mine = collectives.share_of(batches)
        with for_any_rows():
            for done, batch in enumerate(mine, start=1):
                values = read(batch, share=batch.ids.numel() / tokens)
                for of_mask, terms in zip(sums, values, strict=True):
                    np.add.at(of_mask, batch.rows.numpy(), terms)
                if forward.watch is not None:
                    forward.watch(done, len(mine))

    def _count(self, masks: Sequence[Mask], seconds: float) -> None:
        """Add the cost of walking these masks to the forward passes' cost."""
        cost, unit = self.forward.cost, masks[0].unit
        shares = self.forward.shares(unit)
        alone = sum(shares[i] for mask in masks for i in mask.kept)
        cost.block_forwards_alone += alone if unit == "block" else round(alone, 3)
        cost.forward_seconds += seconds
        cost.peak_memory = max(cost.peak_memory, peak_memory(self.forward.model.module))
