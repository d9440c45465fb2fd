"""Decide which branches of a walk run as one batch, because one branch alone would leave the device idle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pruning.distributed import collectives
from pruning.engine.batching import Batch
from pruning.engine.device import out_of_memory
from pruning.models.block_probe import find_blocks

if TYPE_CHECKING:
    from pruning.models.loader import LanguageModel

log = logging.getLogger(__name__)

# Branches run as one batch if a single branch would leave the device idle. With fewer than MERGE_OPERATIONS
# operations per block, starting kernels takes longer than running them. With fewer than MERGE_TOKENS tokens,
# reading the weights takes longer than computing with them.
MERGE_OPERATIONS = {"cpu": 1e8, "cuda": 1e11}
MERGE_TOKENS = 32
# Tokens that are merged on request in half precision on a CPU: with more, products become no faster.
FULL_TOKENS = 512


@dataclass
class Merging:
    """How many branches of a model run as one batch.

    `merge` is as in `Forward`. `alike` says whether a number of branches of a batch of units can be merged so that no
    branch depends on the others. `most` is the number of tokens that a pass may have.
    """

    model: LanguageModel
    merge: bool | None
    alike: Callable[[Batch, str, int], bool]
    _alike: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def branches(self, batch: Batch, unit: str, most: int) -> int:
        """How many branches of a batch run as one: several if one branch alone would leave the device idle.

        With merging, the weights are read once for all branches, which also saves time if they are on disk.
        """
        tokens = batch.ids.numel()
        if self.filled:
            return self._copies(tokens, most) if self._alike.get(self._shape(batch, unit, most)) else 1
        if self.merge is False or not (self._exact or self._offloaded):
            return 1
        return max(1, most // tokens) if self._small(tokens) or self._offloaded else 1

    def check(self, batches: Sequence[Batch], unit: str, most: int) -> None:
        """Check which batches can be merged. All ranks must call it."""
        for batch in batches if self.filled else ():
            copies, shape = self._copies(batch.ids.numel(), most), self._shape(batch, unit, most)
            if copies < 2 or shape in self._alike:
                continue
            self._alike[shape] = not collectives.all_max(float(not self._fits(batch, unit, copies)))
            if not self._alike[shape]:
                log.warning(
                    "forward.merge: batches of %d tokens are not merged, because not all branches are treated alike, "
                    "or memory ran out in the check",
                    batch.ids.numel(),
                )

    @property
    def filled(self) -> bool:
        """Whether merged passes are filled up to one shape (`equal_shapes.py`).

        In half precision, and on a GPU, the last bit of a matrix product depends on the number of its rows. A mask's
        loss would depend on the other masks, and a search that is interrupted and continued could end differently.
        """
        return bool(self.merge) and not self._exact and not self._offloaded

    def _fits(self, batch: Batch, unit: str, copies: int) -> bool:
        try:
            return self.alike(batch, unit, copies)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False

    def _shape(self, batch: Batch, unit: str, most: int) -> tuple[object, ...]:
        """All that the kernels of a merged pass can depend on."""
        attention = None if batch.attention is None else batch.attention.dim()
        return (
            unit, *batch.ids.shape, len(batch.targets), attention, batch.positions is None,
            self._copies(batch.ids.numel(), most),
        )  # fmt: skip

    def _copies(self, tokens: int, most: int) -> int:
        if self.model.device.type == "cpu":
            return max(1, min(most, FULL_TOKENS) // tokens)
        return max(1, most // tokens) if self._small(tokens) else 1

    def _small(self, tokens: int) -> bool:
        """Whether a batch with this many tokens would leave the device idle."""
        block = find_blocks(self.model.module).modules[0]
        operations = 2 * tokens * sum(p.numel() for p in block.parameters())
        return tokens < MERGE_TOKENS or operations < MERGE_OPERATIONS.get(self.model.device.type, 1e8)

    @property
    def _exact(self) -> bool:
        wide = self.model.module.dtype in (torch.float32, torch.float64)
        return wide and self.model.device.type == "cpu"

    @property
    def _offloaded(self) -> bool:
        return any(p.device.type == "meta" for p in self.model.module.parameters())
