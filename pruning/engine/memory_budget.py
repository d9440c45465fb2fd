"""How much is computed at a time: tokens in a batch, branches in one pass, masks in one walk of the tree.

What free memory there happens to be changes no batch, since that would change the last bits of losses; it only says
how many masks are walked at a time. A budget that is given also makes batches smaller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch

from pruning.core.mask import Mask
from pruning.distributed import collectives
from pruning.engine import memory_probe
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.device import free_memory
from pruning.engine.logprobs import Projection, Readout
from pruning.models.blocks import find_blocks, head

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.loader import LanguageModel

log = logging.getLogger(__name__)

# Branches are run together where one alone would leave the device idle: below so many operations in a block, where
# starting kernels takes longer than running them, or so few tokens that reading the weights does.
MERGE_OPERATIONS = {"cpu": 1e8, "cuda": 1e11}
MERGE_TOKENS = 32


@dataclass
class MemoryBudget:
    """What `Forward` does at a time on one model; its fields are those of `Forward`.

    `lines` makes token lines of rows.
    """

    model: LanguageModel
    batch_tokens: int
    memory: int | None
    merge: bool | None
    lines: Callable[[tuple[Row, ...]], Sequence[TokenLine]]
    _held: float = math.inf  # bytes of hidden states at a time, after an out-of-memory
    _batches: dict[tuple[Row, ...], list[Batch]] = field(default_factory=dict)
    _beside: dict[tuple[tuple[Row, ...], Readout], float] = field(default_factory=dict)

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches of some rows, made once."""
        if rows not in self._batches:
            self._batches[rows] = make_batches(self.lines(rows), self.batch_tokens)
        return self._batches[rows]

    def merged(self, batch: Batch) -> int:
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

    def capacity(self, rows: tuple[Row, ...], reading: Readout, mask: Mask) -> int:
        """How many masks may be walked at a time, each of which may need a hidden state of its own."""
        beside = collectives.all_max(self._measured(rows, reading, mask))
        memory = self.memory if self.memory is not None else free_memory(self.model.module) // 4
        memory = int(-collectives.all_max(-memory))  # what the fullest of all ranks has
        # A state that went through a block with others may keep theirs for a while.
        kept = (b.ids.numel() * (2 if self.merged(b) > 1 else 1) for b in self.batches(rows))
        state = self._state_bytes(max(kept))
        if (self.memory is not None or beside == math.inf) and beside + state > memory and self._halve():
            log.warning("forward.memory: going on with %d tokens at a time", self.batch_tokens)
            return self.capacity(rows, reading, mask)
        return max(1, int(min(max(0.0, memory - beside), self._held) // state))

    def shrink(self, error: Exception, masks: int) -> None:
        """Halve what is held at a time after an out-of-memory; raises any other error, or where nothing is left."""
        if not out_of_memory(error):
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

    @property
    def projection(self) -> Projection:
        """The model's head. With a budget, fewer logits are projected at a time: several tensors have their size."""
        vocabulary = int(self.model.module.config.get_text_config(decoder=True).vocab_size)
        limit = None if self.memory is None else max(1, self.memory // 8)
        return Projection(partial(head, self.model.module), vocabulary, limit)

    def _state_bytes(self, tokens: int) -> int:
        """Bytes of the hidden state of so many tokens."""
        width = int(self.model.module.config.get_text_config(decoder=True).hidden_size)
        return tokens * width * int(self.model.module.dtype.itemsize)

    def _measured(self, rows: tuple[Row, ...], reading: Readout, mask: Mask) -> float:
        """Bytes that a pass takes beside the states of masks, measured once; infinite where they are not there."""
        if (rows, reading) not in self._beside:
            batches = self.batches(rows)
            widest = max(batches, key=lambda b: b.ids.numel()), max(batches, key=lambda b: b.ids.shape[1])
            fullest = max(batches, key=lambda b: len(b.targets) * self.merged(b))
            most = max(self.merged(b) * b.ids.numel() for b in batches)
            try:
                walks = [
                    memory_probe.blocks_bytes(self.model, b, mask, -(-most // b.ids.numel()))
                    for b in {*widest}
                ]
                last = memory_probe.head_bytes(
                    self.model, fullest, reading, self.projection, self.merged(fullest)
                )
                self._beside[rows, reading] = max(*walks, 0, last)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._beside[rows, reading] = math.inf
        return self._beside[rows, reading]

    def _halve(self) -> bool:
        """Go on with half as many tokens at a time, unless there is only one line, of one branch, already."""
        found = [(b, self.merged(b)) for batches in self._batches.values() for b in batches]
        if self.batch_tokens == 1 or all(len(b.ids) == merged == 1 for b, merged in found):
            return False
        most = min(self.batch_tokens, max(b.ids.numel() * merged for b, merged in found))
        self.batch_tokens = max(1, most // 2)
        self._batches.clear()
        self._beside.clear()
        return True


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out, on a device or the CPU."""
    return "memory" in str(error).lower()
