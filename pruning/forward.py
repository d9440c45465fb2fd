"""Log-likelihoods of token rows under many masks: the work that the program spends its life on.

Masks are decisions, block after block, to keep or to drop; those that decide alike up to some block share
everything up to it. `Forward` walks the tree of decisions block by block: one hidden state for each distinct
beginning, one block forward for each distinct beginning that keeps the block. A dropped block costs nothing, and
one that no mask keeps is never touched. What comes out is what one masked forward pass per mask gives, and does not
depend on which masks are asked for together.

Greedy's round over N blocks costs about N^2 / 2 block forwards this way instead of N^2, all pairs N^3 / 6 instead of
N^3 / 2.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pruning import ranks, working
from pruning.batches import Batch, make_batches, packed, single
from pruning.blocks import find_blocks, head
from pruning.device import free_memory, peak_memory
from pruning.ledger import Cost
from pruning.mask import Mask
from pruning.readings import LIKELIHOOD, Reading, read
from pruning.walk import Branch, together, walk

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models import LanguageModel

log = logging.getLogger(__name__)

FIRST_CHUNK = 4  # masks; later chunks are as many as take about `Forward.patience` seconds
# Branches are run together where one alone would leave the device idle: below so many operations in a block, where
# starting kernels takes longer than running them, or so few tokens that reading the weights does.
MERGE_OPERATIONS = {"cpu": 1e8, "cuda": 1e11}
MERGE_TOKENS = 32
PACKING_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative; else 0.05


@dataclass
class Forward:
    """Forward passes of one model.

    `batch_tokens` bounds the tokens, padding included, that a block is given at once; `memory` the bytes that masks
    take beside the weights (None: measured from the device). Past it, fewer masks are walked at a time and more is
    computed again; a `memory` that is given also makes batches smaller. `patience` is about how many seconds of work
    a kill may cost. `merge` says whether branches may be run as one batch (None: where a loss does not depend on it,
    or weights lie on disk). A dropped block i multiplies the hidden state by `scales[i]`, if given.
    """

    model: LanguageModel
    batch_tokens: int = 2048
    memory: int | None = None
    patience: float = 20.0
    merge: bool | None = None
    scales: tuple[float, ...] | None = None
    cost: Cost = field(default_factory=Cost)
    _size: int = FIRST_CHUNK
    _held: float = math.inf  # bytes of hidden states at a time, after an out-of-memory
    _batches: dict[tuple[Row, ...], list[Batch]] = field(default_factory=dict)
    _beside: dict[tuple[tuple[Row, ...], Reading], float] = field(default_factory=dict)
    _dense_states: WeakKeyDictionary[Batch, Tensor] = field(default_factory=WeakKeyDictionary)

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """For each mask, in no particular order: itself, each row's log-likelihood in nats, its share of the seconds.

        With several ranks, each runs its own batches and all get the sums.
        """
        return self.sums(rows, masks, LIKELIHOOD)

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], reading: Reading
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """The same for any reading: its sum over each row's scored positions."""
        rows = tuple(rows)
        # In this order, masks that share much stand together, and those that part early come first.
        todo = sorted(masks, key=lambda mask: [i not in mask.dropped for i in range(mask.n_blocks)])
        while todo:
            size = min(self._size, self._capacity(rows, reading, todo[0]))
            chunk, started = todo[:size], time.perf_counter()
            try:
                sums, failure = self._chunk(rows, chunk, reading), None
            except RuntimeError as error:  # its traceback would keep alive what there was no memory for
                failure = error.with_traceback(None) if _out_of_memory(error) else error
            # All or none go on: a rank that has run out of memory would else plan other chunks than the rest.
            if (failed := ranks.failed(failure)) is not None:
                self._shrink(failed, len(chunk))
                continue
            sums = ranks.total(sums)
            todo, seconds = todo[size:], ranks.largest(time.perf_counter() - started)
            self._note(chunk, seconds)
            for mask, values in zip(chunk, sums, strict=True):
                yield mask, values.tolist(), seconds / len(chunk)
            self._size = max(1, round(self.patience * len(chunk) / max(seconds, 1e-9)))

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches of some rows, made once; choices are packed where this model gives the same for it."""
        if rows not in self._batches:
            lines = packed(rows) if self._packs(rows) else single(rows)
            self._batches[rows] = make_batches(lines, self.batch_tokens)
        return self._batches[rows]

    @torch.inference_mode()
    def _chunk(self, rows: tuple[Row, ...], masks: Sequence[Mask], reading: Reading) -> np.ndarray[Any, Any]:
        """Sums (masks, rows) over this rank's batches, in float64."""
        sums = np.zeros((len(masks), len(rows)))
        batches = self.batches(rows)
        tokens = sum(batch.ids.numel() for batch in batches)
        for batch in ranks.own(batches):
            share = batch.ids.numel() / tokens
            for number, values in self._read(batch, masks, reading, share):
                np.add.at(sums[number], batch.rows.numpy(), values)
        return sums

    def _read(
        self, batch: Batch, masks: Sequence[Mask], reading: Reading = LIKELIHOOD, share: float = 0.0
    ) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """For each mask its number and the readings (n,) at the batch's targets.

        The head is run where it counts and nowhere else. `share` is the batch's part of all samples, for the count
        of block forwards.
        """
        merged = self._merged(batch)
        dense = self._dense_state(batch, share) if reading.compares else None
        branches = self._walk(batch, masks, share)
        for start in range(0, len(branches), merged):
            group = branches[start : start + merged]
            flat = together([_at(batch, hidden) for hidden, _ in group])  # (branches * n, D)
            known = None if dense is None else dense.to(flat.device).repeat(len(group), 1)
            targets = batch.targets.repeat(len(group))
            projected = partial(head, self.model.module)
            found = read(reading, projected, self._vocabulary, flat, known, targets, self._projected)
            values = found.view(len(group), -1).numpy()
            yield from zip((number for _, (number,) in group), values, strict=True)

    def _walk(self, batch: Batch, masks: Sequence[Mask], share: float) -> list[Branch]:
        """The branches of a batch, counted."""

        def count(run: int) -> None:
            self.cost.block_tokens += run * batch.ids.numel()
            self.cost.block_forwards += run * share

        return walk(self.model, batch, masks, self._merged(batch), count, self.scales)

    def _dense_state(self, batch: Batch, share: float) -> Tensor:
        """The dense model's states (n, D) at the batch's targets, computed once and kept on the CPU."""
        if batch not in self._dense_states:
            ((hidden, _),) = self._walk(batch, [Mask(self.n_blocks)], share)
            self._dense_states[batch] = _at(batch, hidden).cpu()
        return self._dense_states[batch]

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the model."""
        return len(find_blocks(self.model.module).modules)

    @cached_property
    def _vocabulary(self) -> int:
        return int(self.model.module.config.get_text_config(decoder=True).vocab_size)

    @property
    def _projected(self) -> int | None:
        """The most bytes of logits at a time; several tensors have their size."""
        return None if self.memory is None else max(1, self.memory // 8)

    def _state_bytes(self, tokens: int) -> int:
        """Bytes of the hidden state of so many tokens."""
        width = int(self.model.module.config.get_text_config(decoder=True).hidden_size)
        return tokens * width * int(self.model.module.dtype.itemsize)

    def _merged(self, batch: Batch) -> int:
        """How many branches are run as one batch: several where a batch alone would leave the device idle.

        Merging reads the weights once for all of them, which also matters where they lie on disk.
        """
        tokens, block = batch.ids.numel(), find_blocks(self.model.module).modules[0]
        operations = 2 * tokens * sum(p.numel() for p in block.parameters())
        offloaded = any(p.device.type == "meta" for p in self.model.module.parameters())
        # In half precision, and on a GPU, a product's last bit depends on how many rows it has, so a loss would
        # depend on which masks it is asked with, and a search that was interrupted could end elsewhere.
        wide, device = self.model.module.dtype in (torch.float32, torch.float64), self.model.device.type
        exact = wide and device == "cpu"
        if self.merge is False or (self.merge is None and not exact and not offloaded):
            return 1
        small = tokens < MERGE_TOKENS or operations < MERGE_OPERATIONS.get(device, 1e8)
        return max(1, self.batch_tokens // tokens) if small or offloaded else 1

    def _capacity(self, rows: tuple[Row, ...], reading: Reading, mask: Mask) -> int:
        """How many masks may be walked at a time, each of which may need a hidden state of its own.

        What free memory there happens to be changes no batch, since that would change the last bits of losses.
        """
        beside = ranks.largest(self._measured(rows, reading, mask))
        memory = self.memory if self.memory is not None else free_memory(self.model.module) // 4
        memory = int(-ranks.largest(-memory))  # what the fullest of all ranks has
        # A state that went through a block with others may keep theirs for a while.
        kept = (b.ids.numel() * (2 if self._merged(b) > 1 else 1) for b in self.batches(rows))
        state = self._state_bytes(max(kept))
        if (self.memory is not None or beside == math.inf) and beside + state > memory and self._halve():
            log.warning("forward.memory: going on with %d tokens at a time", self.batch_tokens)
            return self._capacity(rows, reading, mask)
        return max(1, int(min(max(0.0, memory - beside), self._held) // state))

    def _measured(self, rows: tuple[Row, ...], reading: Reading, mask: Mask) -> float:
        """Bytes that a pass takes beside the states of masks, measured once; infinite where they are not there."""
        if (rows, reading) not in self._beside:
            batches = self.batches(rows)
            widest = max(batches, key=lambda b: b.ids.numel()), max(batches, key=lambda b: b.ids.shape[1])
            fullest = max(batches, key=lambda b: len(b.targets) * self._merged(b))
            most = max(self._merged(b) * b.ids.numel() for b in batches)
            try:
                walks = [working.of_walk(self.model, b, mask, -(-most // b.ids.numel())) for b in {*widest}]
                merged = self._merged(fullest)
                last = (reading, self._vocabulary, merged, self._projected)
                self._beside[rows, reading] = max(*walks, 0, working.of_head(self.model, fullest, *last))
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._beside[rows, reading] = math.inf
        return self._beside[rows, reading]

    def _halve(self) -> bool:
        """Go on with half as many tokens at a time, unless there is only one line, of one branch, already."""
        found = [(b, self._merged(b)) for batches in self._batches.values() for b in batches]
        if self.batch_tokens == 1 or all(len(b.ids) == merged == 1 for b, merged in found):
            return False
        most = min(self.batch_tokens, max(b.ids.numel() * merged for b, merged in found))
        self.batch_tokens = max(1, most // 2)
        self._batches.clear()
        self._beside.clear()
        return True

    def _shrink(self, error: Exception, masks: int) -> None:
        """Halve what is held at a time after an out-of-memory; raises any other error, or where nothing is left."""
        if not _out_of_memory(error):
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if masks > 1:
            largest = max(batch.ids.numel() for batches in self._batches.values() for batch in batches)
            self._held = (masks // 2) * self._state_bytes(largest)
            log.warning("out of memory: going on with %d masks at a time", masks // 2)
        elif self._halve():
            log.warning("out of memory: going on with %d tokens at a time", self.batch_tokens)
        else:
            raise error

    def _note(self, masks: Sequence[Mask], seconds: float) -> None:
        self.cost.block_forwards_alone += sum(len(mask.kept) for mask in masks)
        self.cost.forward_seconds += seconds
        self.cost.peak_memory = max(self.cost.peak_memory, peak_memory(self.model.module))

    def _packs(self, rows: tuple[Row, ...]) -> bool:
        """Whether packing an item's choices into one line gives this model's losses: tried, not assumed."""
        if all(row.item is None for row in rows) or not _may_pack(self.model.module, packed(rows)):
            return False
        first = tuple(row for row in rows if row.item in {r.item for r in rows[:8]})
        return ranks.first(lambda: self._agree(first))

    def _agree(self, first: tuple[Row, ...]) -> bool:
        """Whether rows of items have the same losses packed and apart."""
        tolerance = PACKING_TOLERANCE.get(self.model.module.dtype, 0.05)
        try:
            together, apart = (
                self._dense(first, make_batches(way(first), self.batch_tokens)) for way in (packed, single)
            )
        except (RuntimeError, TypeError, ValueError):  # a model that takes no such mask or positions
            return False
        return bool(np.allclose(together, apart, rtol=tolerance, atol=tolerance))

    @torch.inference_mode()
    def _dense(self, rows: Sequence[Row], batches: Sequence[Batch]) -> np.ndarray[Any, Any]:
        """Log-likelihoods of rows under the whole model."""
        sums = np.zeros(len(rows))
        for batch in batches:
            for _, values in self._read(batch, [Mask(self.n_blocks)]):
                np.add.at(sums, batch.rows.numpy(), values)
        return sums


def _out_of_memory(error: Exception) -> bool:
    return "memory" in str(error).lower()


def _at(batch: Batch, hidden: Tensor) -> Tensor:
    """States (n, D) at a batch's targets, of states (B, T, D)."""
    return hidden.flatten(0, 1)[batch.places.to(hidden.device)]


def _may_pack(module: Any, lines: Sequence[Any]) -> bool:
    """Whether a model takes positions and a mask for each pair of tokens, and none of its windows is too short."""
    config = module.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or float("inf")
    longest = max(len(line.tokens) for line in lines)
    takes = "position_ids" in inspect.signature(module.forward).parameters
    return takes and longest <= window and config._attn_implementation in ("eager", "sdpa")
