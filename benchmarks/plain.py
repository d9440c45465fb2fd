"""The baseline: one masked forward pass for each mask and batch, as in every public tool."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pruning.core.mask import Mask
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.forward import Forward
from pruning.models.blocks import masked

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


@dataclass
class Plain(Forward):
    """The baseline: for each mask, run all kept blocks and the whole head on all rows, batched as in the engine."""

    def loglikelihoods(
        self, rows: Sequence[Row], masks: Iterable[Mask]
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """See `Forward.loglikelihoods`."""
        batches = make_batches(single(rows), self.batch_tokens)
        for mask in masks:
            started, sums = time.perf_counter(), torch.zeros(len(rows), dtype=torch.float64)
            with torch.inference_mode(), masked(self.model.module, mask):
                for batch in batches:
                    sums.index_add_(0, batch.rows, self._plain(batch))
            self.cost.block_forwards += len(mask.kept)
            yield mask, sums.tolist(), time.perf_counter() - started

    def _plain(self, batch: Batch) -> torch.Tensor:
        inputs = batch.inputs(self.model.device, self.model.module.dtype)
        logits = self.model.module(**inputs, use_cache=False).logits.flatten(0, 1)
        logits, targets = logits[batch.indices.to(logits.device)], batch.targets.to(logits.device)
        return -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double().cpu()
