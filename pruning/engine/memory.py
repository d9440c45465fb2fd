"""Limit how much is computed at a time: tokens per batch, branches per pass, bytes of hidden states.

The batches do not depend on the amount of free memory, since other batches would change the last bits of
losses. Free memory limits the number of masks in a walk (`prefix_tree.py`): hidden states take at most a
quarter of it. Batches become smaller only if memory runs out nevertheless.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch

from pruning.engine import collectives
from pruning.engine.batching import Batch, TokenLine, make_batches
from pruning.engine.devices import free_memory, offloaded, out_of_memory
from pruning.engine.head import Projection
from pruning.engine.prefix_tree import StateBytes
from pruning.models.blocks import find_blocks, head
from pruning.models.placement import LanguageModel

if TYPE_CHECKING:
    from pruning.calibration.samples import Row

log = logging.getLogger(__name__)

# Branches run as one batch if a single branch would leave the CPU idle. With fewer than MERGE_OPERATIONS operations
# per block, starting kernels takes longer than running them. With fewer than MERGE_TOKENS tokens, reading the
# weights takes longer than computing with them.
MERGE_OPERATIONS, MERGE_TOKENS = 1e8, 32
ROOM = 0.25  # hidden states take at most this share of the free memory


@dataclass
class MemoryBudget:
    """How much `Forward` computes at a time on one model; `batch_tokens` is as in `Forward`.

    `lines` maps each requested tuple of rows to the `TokenLine`s from which its batches are made.
    """

    model: LanguageModel
    batch_tokens: int
    lines: dict[tuple[Row, ...], Sequence[TokenLine]] = field(default_factory=dict)
    _state_limit: float = math.inf  # limit on the bytes of hidden states; lowered after running out of memory
    _batches: dict[tuple[Row, ...], list[Batch]] = field(default_factory=dict)

    def batches(self, rows: tuple[Row, ...]) -> list[Batch]:
        """The batches for these rows. They are made from the rows' `lines` at the first request, and kept."""
        if rows not in self._batches:
            self._batches[rows] = make_batches(self.lines[rows], self.batch_tokens)
        return self._batches[rows]

    def merged(self, batch: Batch) -> int:
        """The number of branches that run as one batch. It is above 1 if a single branch would leave the CPU
        idle, or if weights are on disk: merging reads them less often.

        In half precision, and on a GPU, the last bit of a matrix product depends on the number of its rows. If
        branches were merged there, a mask's loss would depend on the other masks. So if weights are in memory,
        branches are merged only in full precision on a CPU.
        """
        tokens, (on_disk, exact, parameters) = batch.ids.numel(), self._merging
        small = tokens < MERGE_TOKENS or 2 * tokens * parameters < MERGE_OPERATIONS
        return max(1, self.batch_tokens // tokens) if on_disk or (exact and small) else 1

    def sizes(self, rows: tuple[Row, ...], held: int) -> StateBytes:
        """The `StateBytes` for walks over these rows; equal on all ranks.

        `held` is the size in bytes of the states that exist already and that the walks may replace.
        """
        free = -collectives.all_max(-(free_memory(self.model.module) + held))  # the minimum over all ranks
        # States count twice after a merged pass, since a branch's state can keep other branches' states in memory.
        walked = (b.ids.numel() * (2 if self.merged(b) > 1 else 1) for b in self.batches(rows))
        mine = sum(batch.ids.numel() for batch in collectives.share_of(self.batches(rows)))
        kept = int(collectives.all_max(self._state_bytes(mine)))
        return StateBytes(min(ROOM * free, self._state_limit), self._state_bytes(max(walked)), kept)

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
        """The model's head."""
        vocabulary = int(self.model.module.config.get_text_config(decoder=True).vocab_size)
        return Projection(partial(head, self.model.module), vocabulary)

    def _halve(self) -> bool:
        """Halve the tokens of a pass. Returns False if each pass already runs a single sequence of one prefix."""
        passes = [(b, self.merged(b)) for batches in self._batches.values() for b in batches]
        if self.batch_tokens == 1 or all(len(b.ids) == merged == 1 for b, merged in passes):
            return False
        most = min(self.batch_tokens, max(b.ids.numel() * merged for b, merged in passes))
        self.batch_tokens = max(1, most // 2)
        self._batches.clear()
        return True

    def _state_bytes(self, tokens: int) -> int:
        """Bytes of the hidden state of `tokens` tokens."""
        width = int(self.model.module.config.get_text_config(decoder=True).hidden_size)
        return tokens * width * int(self.model.module.dtype.itemsize)

    @cached_property
    def _merging(self) -> tuple[bool, bool, int]:
        """Whether weights are on disk, whether products are equal for any row count, a block's parameter count."""
        module = self.model.module
        exact = self.model.device.type == "cpu" and module.dtype in (torch.float32, torch.float64)
        return offloaded(module), exact, sum(p.numel() for p in find_blocks(module).modules[0].parameters())
