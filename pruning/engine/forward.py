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
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine import batching, collectives
from pruning.engine.batching import Batch, Pace, TokenLine, make_batches, out_of_memory, peak_memory
from pruning.engine.head import (
    LIKELIHOOD,
    Distributions,
    Parts,
    Projection,
    Readout,
    compared_at_once,
    distributions,
    log_totals,
    read_out,
)
from pruning.engine.memory import MemoryBudget
from pruning.engine.prefix_tree import (
    NOTHING,
    Beginnings,
    Branch,
    Ends,
    Notes,
    Plan,
    Wanted,
    concatenated,
    edges,
    filled,
    forks,
    make_plan,
    model_entry,
    run_masks,
)
from pruning.models.blocks import BlockInputs, find_blocks
from pruning.models.products import compiled, for_any_rows
from pruning.models.sublayers import find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.model import LanguageModel


# What forward passes cost.


@dataclass
class Cost:
    """What forward passes cost. A block forward is one run of one block on all samples.

    A sub-layer counts as its share of the parameters of its block.

    `block_forwards_alone` is the number of block forwards if every mask were evaluated separately.
    `block_tokens` is the number of tokens that a block has processed, summed over blocks. `peak_memory` is in bytes.
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
        """The cost over all ranks: the sum of their work, the maximum of their time and of their memory."""
        if collectives.world_size() == 1:
            return replace(self)
        forwards, tokens = collectives.all_sum(
            np.array([self.block_forwards, self.block_tokens], dtype=float)
        )
        seconds, memory = collectives.all_max(self.forward_seconds), collectives.all_max(self.peak_memory)
        return Cost(float(forwards), self.block_forwards_alone, int(tokens), seconds, int(memory))


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
            lambda rows: batching.lines(module, rows, own._dense),
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


# One request for values of rows under masks: walk the masks in groups, try again with less if memory runs out.

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


# Read values at the scored positions of one batch under many masks.


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


# Merged passes of one shape, in which the rounding of a branch does not depend on its company.
#
# In half precision and on a GPU, the kernel of a matrix product, and so its order of additions, depends on the
# number of rows. If each merged pass is filled up to the same number of branches, the kernel is always the same. It
# must also treat all rows alike, wherever they stand and whatever the others are. Most kernels do, but none
# promises it, so this is checked once for each shape. He et al. (2025, "Defeating Nondeterminism in LLM Inference")
# describe the kernels that do not.


def treats_branches_alike(
    model: LanguageModel, batch: Batch, unit: str, copies: int, projection: Projection
) -> bool:
    """Whether a branch gets the same bits wherever it stands among `copies` branches, whatever the others are.

    One unit of each kind, and the head, are run on four arrangements of states of one batch. Experts never do: how
    many rows an expert gets depends on the other branches.
    """
    if _has_experts(model.module.config.to_dict()):
        return False
    chain, cache = find_chain(model.module, unit), dict[int, BlockInputs]()
    states = _different(model_entry(model, batch, 1, cache).hidden, copies)
    entry = model_entry(model, batch, copies, cache)

    def read(merged: Tensor) -> Tensor:
        flat = [state.flatten(0, 1)[batch.indices.to(state.device)] for state in merged.tensor_split(copies)]
        return read_out(LIKELIHOOD, projection, torch.cat(flat), None, batch.targets.repeat(copies))

    units = [partial(chain.run, index, entry=entry) for index in _kinds(model, unit)]
    return all(_alike(run, states) for run in units) and _alike(read, states)


def _kinds(model: LanguageModel, unit: str) -> list[int]:
    """The first unit of each kind: its block's class, its weights' shapes and places, and its kind of attention."""
    blocks, chain = find_blocks(model.module).modules, find_chain(model.module, unit)
    layers = getattr(model.module.config.get_text_config(decoder=True), "layer_types", None) or []
    kinds: dict[object, int] = {}
    for index in range(len(chain)):
        block = chain.sublayers[index].block if chain.sublayers else index
        shapes = tuple((weight.shape, weight.dtype, weight.device) for weight in chain.weights(index))
        kinds.setdefault((type(blocks[block]), shapes, *layers[block : block + 1]), index)
    return list(kinds.values())


def _has_experts(config: Mapping[Any, Any]) -> bool:
    return any(
        _has_experts(value) if isinstance(value, dict) else bool("expert" in str(name) and value)
        for name, value in config.items()
    )


def _different(hidden: Tensor, copies: int) -> list[Tensor]:
    """A state, and others of its size that differ from it."""
    noise = torch.Generator().manual_seed(0)
    others = [torch.randn(hidden.shape, generator=noise).to(hidden) * hidden.std() for _ in range(copies - 1)]
    return [hidden, *others]


def _alike(run: Callable[[Tensor], Tensor], states: Sequence[Tensor]) -> bool:
    """Whether a state gets the same result in its place, one place further, in reverse, and among its like."""
    count = len(states)

    def results(order: Sequence[int]) -> list[Tensor]:
        return list(run(torch.cat([states[number] for number in order])).tensor_split(count))

    straight = results(range(count))
    for order in ([*range(1, count), 0], [*reversed(range(count))], [0] * count):
        if not all(
            torch.equal(straight[number], got) for number, got in zip(order, results(order), strict=True)
        ):
            return False
    return True
