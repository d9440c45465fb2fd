"""Limit how much is computed at a time: tokens per batch, branches per pass, masks per walk of the tree.

The batches do not depend on the amount of free memory, since other batches would change the last bits of losses. Free
memory only limits how many masks are walked at a time. If a memory budget is given, batches can also become smaller.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruning.core.mask import Mask
from pruning.engine import collectives
from pruning.engine.batching import Batch, Merging, TokenLine, free_memory, make_batches, out_of_memory
from pruning.engine.head import (
    Projection,
    Readout,
    compared_at_once,
    distributions,
    positions_at_once,
    read_out,
)
from pruning.engine.prefix_tree import Sizes, model_entry, run_masks
from pruning.models.blocks import head
from pruning.models.model import LanguageModel
from pruning.models.sublayers import find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


log = logging.getLogger(__name__)


@dataclass
class MemoryBudget:
    """How much `Forward` computes at a time on one model.

    `batch_tokens`, `memory` and `merge` are as in `Forward`. `lines` makes token lines from rows. `alike` says
    whether a number of branches of a batch of units can be merged so that no branch depends on the others.
    """

    model: LanguageModel
    batch_tokens: int
    memory: int | None
    merge: bool | None
    lines: Callable[[tuple[Row, ...]], Sequence[TokenLine]]
    alike: Callable[[Batch, str, int], bool]
    _state_limit: float = math.inf  # limit on the bytes of hidden states; lowered after running out of memory
    _batches: dict[tuple[Row, ...], list[Batch]] = field(default_factory=dict)
    _overheads: dict[tuple[object, ...], float] = field(default_factory=dict)

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches of some rows, cached."""
        if rows not in self._batches:
            self._batches[rows] = make_batches(self.lines(rows), self.batch_tokens)
        return self._batches[rows]

    @cached_property
    def merging(self) -> Merging:
        """Which branches run as one batch."""
        return Merging(self.model, self.merge, self.alike)

    def merged(self, batch: Batch, unit: str) -> int:
        """How many branches run as one batch; 1 if branches run one at a time."""
        return self.merging.branches(batch, unit, self.batch_tokens)

    def check(self, rows: tuple[Row, ...], unit: str) -> None:
        """Check which batches of some rows can be merged. All ranks must call it; they agree on the result."""
        self.merging.check(self.batches(rows), unit, self.batch_tokens)

    def sizes(self, rows: tuple[Row, ...], readout: Readout, mask: Mask, held: int) -> Sizes:
        """The room for hidden states, and the size of a state; equal on all ranks.

        `held` is the size in bytes of states that exist already and may be replaced.
        """
        # The dense model, with which a readout may compare, is a mask of blocks.
        for unit in (mask.unit, "block") if readout.compares else (mask.unit,):
            self.check(rows, unit)
        overhead = collectives.all_max(self._overhead(rows, readout, mask))
        memory = self.memory if self.memory is not None else (free_memory(self.model.module) + held) // 4
        memory = int(-collectives.all_max(-memory))  # the least over all ranks
        # States count twice after a merged pass, since a branch's state can keep other branches' states in memory.
        walked = (b.ids.numel() * (2 if self.merged(b, mask.unit) > 1 else 1) for b in self.batches(rows))
        state = self._state_bytes(max(walked))
        if (self.memory is not None or overhead == math.inf) and overhead + state > memory and self._halve():
            log.warning("forward.memory: continuing with %d tokens at a time", self.batch_tokens)
            return self.sizes(rows, readout, mask, held)
        mine = sum(batch.ids.numel() for batch in collectives.share_of(self.batches(rows)))
        kept = int(collectives.all_max(self._state_bytes(mine)))
        room, filled = min(max(0.0, memory - overhead), self._state_limit), 1
        if self.merging.filled:
            filled = max(self.merged(batch, mask.unit) for batch in self.batches(rows))
        return Sizes(room, state, kept, filled)

    def shrink(self, error: Exception, masks: int) -> None:
        """Halve the number of masks or of tokens per pass, after memory ran out.

        Raises `error` if neither number can be halved, or if `error` does not report that memory ran out.
        """
        if not out_of_memory(error):
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        # A pass that is filled up to one shape is as large for few masks as for many.
        filled = self.merging.filled and any(
            self._widest(b) > 1 for batches in self._batches.values() for b in batches
        )
        if masks > 1 and not filled:
            largest = max(batch.ids.numel() for batches in self._batches.values() for batch in batches)
            self._state_limit = (masks // 2) * self._state_bytes(largest)
            log.warning("out of memory: continuing with %d masks at a time", masks // 2)
        elif self._halve():
            log.warning("out of memory: continuing with %d tokens at a time", self.batch_tokens)
        else:
            raise error

    @property
    def projection(self) -> Projection:
        """The model's head.

        If `memory` is set, logits are limited to 1/8 of it, because several tensors of their size exist at once.
        """
        vocabulary = int(self.model.module.config.get_text_config(decoder=True).vocab_size)
        limit = None if self.memory is None else max(1, self.memory // 8)
        return Projection(partial(head, self.model.module), vocabulary, limit)

    def _state_bytes(self, tokens: int) -> int:
        """Bytes of the hidden state of `tokens` tokens."""
        width = int(self.model.module.config.get_text_config(decoder=True).hidden_size)
        return tokens * width * int(self.model.module.dtype.itemsize)

    def _overhead(self, rows: tuple[Row, ...], readout: Readout, mask: Mask) -> float:
        """Bytes a pass needs besides the states of masks, measured once; infinite if measuring runs out of memory."""
        batches = self.batches(rows)
        key = (rows, readout, mask.unit, *(self.merged(b, mask.unit) for b in batches))
        if key not in self._overheads:
            widest = max(batches, key=lambda b: b.ids.numel()), max(batches, key=lambda b: b.ids.shape[1])
            fullest = max(batches, key=lambda b: len(b.targets) * self.merged(b, mask.unit))
            most = max(self.merged(b, mask.unit) * b.ids.numel() for b in batches)
            try:
                walks = [blocks_bytes(self.model, b, mask, -(-most // b.ids.numel())) for b in {*widest}]
                last = head_bytes(
                    self.model, fullest, readout, self.projection, self.merged(fullest, mask.unit)
                )
                self._overheads[key] = max(*walks, 0, last)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._overheads[key] = math.inf
        return self._overheads[key]

    def _widest(self, batch: Batch) -> int:
        return max(self.merged(batch, unit) for unit in ("block", "sublayer"))

    def _halve(self) -> bool:
        """Halve the tokens of a pass. Returns False if every pass already runs a single line of a single branch."""
        passes = [(b, self._widest(b)) for batches in self._batches.values() for b in batches]
        if self.batch_tokens == 1 or all(len(b.ids) == merged == 1 for b, merged in passes):
            return False
        most = min(self.batch_tokens, max(b.ids.numel() * merged for b, merged in passes))
        self.batch_tokens = max(1, most // 2)
        self._batches.clear()
        self._overheads.clear()
        return True


# Measure the memory that a pass needs besides the hidden states it keeps, by running one block and the head.
#
# A formula would have to know the intermediate tensors, the attention kernel and the experts of each architecture.
# Memory that libraries allocate inside a kernel is not counted.


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were created in its context and still exist, and records the peak."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the tensors that it returns, unless they share memory with its inputs."""
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            if tensor.untyped_storage()._cdata not in inputs:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._counted:
            return
        self._counted.add(number)
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._forget, number, size)

    def _forget(self, number: int, size: int) -> None:
        self._counted.discard(number)
        self.live -= size


@torch.inference_mode()
def blocks_bytes(model: LanguageModel, batch: Batch, mask: Mask, merged: int) -> int:
    """The bytes needed to run a unit on `merged` branches of a batch at once, and to hold the inputs of all blocks.

    Of the units that the mask keeps, the one with the most parameters is run. Inputs are cached for each number of
    branches from 1 to `merged`.
    """
    sizes = find_chain(model.module, mask.unit).sizes()
    largest = max(mask.kept, key=sizes.__getitem__, default=None)
    alone = mask.drop(*(i for i in range(mask.n_units) if i != largest))
    block = _most(lambda: run_masks(model, batch, [alone], 1, lambda *_: None))
    tally = Tally()
    with tally:
        entry = model_entry(model, batch, 1, {})
        inputs = tally.live - entry.hidden.nbytes
    return merged * block + (merged * (merged + 1) // 2 - merged) * inputs


@torch.inference_mode()
def head_bytes(
    model: LanguageModel, batch: Batch, readout: Readout, projection: Projection, merged: int
) -> int:
    """Bytes for computing the readout of `merged` branches of a batch at its targets."""
    config = model.module.config.get_text_config(decoder=True)
    count = merged * len(batch.targets)
    state = torch.zeros(1, int(config.hidden_size), dtype=model.module.dtype, device=model.device)
    at_once = compared_at_once if readout.compares else positions_at_once
    step = min(count, at_once(model.device.type, projection.vocabulary, projection.limit))
    flat, targets = state.expand(step, -1), batch.targets[:1].repeat(step)

    def read() -> None:
        known = distributions(projection, flat) if readout.compares else None
        read_out(readout, projection, flat, known, targets)

    most = _most(read)
    return most + (2 + 2 * readout.compares) * count * state.nbytes


def _most(run: Callable[[], object]) -> int:
    tally = Tally()
    with tally:
        run()
    return tally.most
