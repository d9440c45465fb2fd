"""Limit how much is computed at a time: tokens per batch, branches per pass, masks per walk of the tree.

The batches do not depend on the amount of free memory, since other batches would change the last bits of losses. Free
memory only limits how many masks are walked at a time. If a memory budget is given, batches can also become smaller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch

from pruning.core.mask import Mask
from pruning.distributed import collectives
from pruning.engine import memory_probe
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.device import free_memory, out_of_memory
from pruning.engine.logprobs import Projection, Readout
from pruning.engine.merging import Merging
from pruning.engine.walk_plan import Sizes
from pruning.models.blocks import head

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.models.loader import LanguageModel

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
                walks = [
                    memory_probe.blocks_bytes(self.model, b, mask, -(-most // b.ids.numel()))
                    for b in {*widest}
                ]
                last = memory_probe.head_bytes(
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
