"""Limit how much is computed at a time: tokens per batch, branches per pass, bytes of hidden states.

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
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.devices import free_memory, offloaded, out_of_memory
from pruning.engine.head import (
    Projection,
    Readout,
    compared_at_once,
    distributions,
    positions_at_once,
    read_out,
)
from pruning.engine.prefix_tree import StateBytes, model_entry, run_masks
from pruning.models.blocks import find_blocks, head
from pruning.models.placement import LanguageModel
from pruning.models.sublayers import find_chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

log = logging.getLogger(__name__)

# Branches run as one batch if a single branch would leave the CPU idle. With fewer than MERGE_OPERATIONS operations
# per block, starting kernels takes longer than running them. With fewer than MERGE_TOKENS tokens, reading the
# weights takes longer than computing with them.
MERGE_OPERATIONS, MERGE_TOKENS = 1e8, 32


@dataclass
class MemoryBudget:
    """How much `Forward` computes at a time on one model.

    `batch_tokens` and `memory` are as in `Forward`. `lines` holds the token lines of all requested rows.
    """

    model: LanguageModel
    batch_tokens: int
    memory: int | None
    lines: dict[tuple[Row, ...], Sequence[TokenLine]] = field(default_factory=dict)
    _state_limit: float = math.inf  # limit on the bytes of hidden states; lowered after running out of memory
    _batches: dict[tuple[Row, ...], list[Batch]] = field(default_factory=dict)
    _overheads: dict[tuple[object, ...], float] = field(default_factory=dict)

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches of some rows, made once from their `lines`."""
        if rows not in self._batches:
            self._batches[rows] = make_batches(self.lines[rows], self.batch_tokens)
        return self._batches[rows]

    def merged(self, batch: Batch) -> int:
        """The number of branches that run as one batch: several if one branch alone would leave the CPU idle, or if
        weights are on disk, so that they are read less often.

        In half precision, and on a GPU, the last bit of a matrix product depends on the number of its rows. A mask's
        loss would then depend on the other masks, so branches are merged in full precision on a CPU only.
        """
        tokens, (on_disk, exact, parameters) = batch.ids.numel(), self._merging
        small = tokens < MERGE_TOKENS or 2 * tokens * parameters < MERGE_OPERATIONS
        return max(1, self.batch_tokens // tokens) if on_disk or (exact and small) else 1

    def sizes(self, rows: tuple[Row, ...], readout: Readout, mask: Mask, held: int) -> StateBytes:
        """The room for hidden states, and the size of a state; equal on all ranks.

        `held` is the size in bytes of states that exist already and may be replaced.
        """
        overhead = collectives.all_max(self._overhead(rows, readout, mask))
        memory = self.memory if self.memory is not None else (free_memory(self.model.module) + held) // 4
        memory = int(-collectives.all_max(-memory))  # the least over all ranks
        # States count twice after a merged pass, since a branch's state can keep other branches' states in memory.
        walked = (b.ids.numel() * (2 if self.merged(b) > 1 else 1) for b in self.batches(rows))
        state = self._state_bytes(max(walked))
        if (self.memory is not None or overhead == math.inf) and overhead + state > memory and self._halve():
            log.warning("forward.memory: continuing with %d tokens at a time", self.batch_tokens)
            return self.sizes(rows, readout, mask, held)
        mine = sum(batch.ids.numel() for batch in collectives.share_of(self.batches(rows)))
        kept = int(collectives.all_max(self._state_bytes(mine)))
        return StateBytes(min(max(0.0, memory - overhead), self._state_limit), state, kept)

    def shrink(self, error: Exception, masks: int) -> None:
        """Halve the number of masks or of tokens per pass, after memory ran out.

        Raises `error` if neither number can be halved, or if `error` does not report that memory ran out.
        """
        if not out_of_memory(error):
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if masks > 1:
            largest = max(batch.ids.numel() for batches in self._batches.values() for batch in batches)
            self._state_limit = (masks // 2) * self._state_bytes(largest)
            log.warning("out of memory: continuing with %d masks at a time", masks // 2)
        elif self._halve():
            log.warning("out of memory: continuing with %d tokens at a time", self.batch_tokens)
        else:
            raise error

    def projection(self) -> Projection:
        """The model's head.

        If `memory` is set, logits are limited to 1/8 of it, because several tensors of their size exist at once.
        """
        vocabulary = int(self.model.module.config.get_text_config(decoder=True).vocab_size)
        limit = None if self.memory is None else max(1, self.memory // 8)
        return Projection(partial(head, self.model.module), vocabulary, limit)

    def _halve(self) -> bool:
        """Halve the tokens of a pass. Returns False if every pass already runs only one line of one branch."""
        passes = [(b, self.merged(b)) for batches in self._batches.values() for b in batches]
        if self.batch_tokens == 1 or all(len(b.ids) == merged == 1 for b, merged in passes):
            return False
        most = min(self.batch_tokens, max(b.ids.numel() * merged for b, merged in passes))
        self.batch_tokens = max(1, most // 2)
        self._batches.clear()
        self._overheads.clear()
        return True

    def _state_bytes(self, tokens: int) -> int:
        """Bytes of the hidden state of `tokens` tokens."""
        width = int(self.model.module.config.get_text_config(decoder=True).hidden_size)
        return tokens * width * int(self.model.module.dtype.itemsize)

    @cached_property
    def _merging(self) -> tuple[bool, bool, int]:
        """Whether weights are on disk, whether products are exact for any rows, and the parameters of a block."""
        module = self.model.module
        exact = self.model.device.type == "cpu" and module.dtype in (torch.float32, torch.float64)
        parameters = sum(p.numel() for p in find_blocks(module).modules[0].parameters())
        return offloaded(module), exact, parameters

    def _overhead(self, rows: tuple[Row, ...], readout: Readout, mask: Mask) -> float:
        """Bytes a pass needs besides the states of masks, measured once; infinite if measuring runs out of memory."""
        batches = self.batches(rows)
        key = (rows, readout.value, readout.part is None, mask.unit)  # this key holds no weights of a part
        if key not in self._overheads:
            widest = max(batches, key=lambda b: b.ids.numel()), max(batches, key=lambda b: b.ids.shape[1])
            fullest = max(batches, key=lambda b: len(b.targets) * self.merged(b))
            most = max(self.merged(b) * b.ids.numel() for b in batches)
            try:
                walks = [_blocks_bytes(self.model, b, mask, -(-most // b.ids.numel())) for b in {*widest}]
                last = _head_bytes(self.model, fullest, readout, self.projection(), self.merged(fullest))
                self._overheads[key] = max(*walks, 0, last)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._overheads[key] = math.inf
        return self._overheads[key]


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
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs and storage._cdata not in self._counted:
                self._counted.add(storage._cdata)
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, number: int, size: int) -> None:
        self._counted.discard(number)
        self.live -= size


@torch.inference_mode()
def _blocks_bytes(model: LanguageModel, batch: Batch, mask: Mask, merged: int) -> int:
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
        entry = model_entry(model, batch)
        inputs = tally.live - entry.hidden.nbytes
    return merged * block + (merged * (merged + 1) // 2 - merged) * inputs


@torch.inference_mode()
def _head_bytes(
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
        known = list(distributions(projection, flat)) if readout.compares else None
        read_out(readout, projection, flat, known, targets)

    return _most(read) + (2 + 2 * readout.compares) * count * state.nbytes


def _most(run: Callable[[], object]) -> int:
    tally = Tally()
    with tally:
        run()
    return tally.most
