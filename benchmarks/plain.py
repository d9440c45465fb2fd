"""The baseline: one masked forward pass for each mask and batch, as in every public tool."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.core.mask import Mask
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.forward import Forward
from pruning.engine.logprobs import LIKELIHOOD, Distributions, Readout
from pruning.models.units import find_chain, masked

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


@dataclass
class Plain(Forward):
    """The baseline: for each mask, run all kept blocks and the whole head on all rows, batched as in the engine."""

    _dense_logits: dict[int, Tensor] = field(default_factory=dict)  # by the number of the batch

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """See `Forward.sums`. The logits of the dense model are computed once."""
        batches, masks = make_batches(single(rows), self.batch_tokens), list(masks)
        shares = find_chain(self.model.module, masks[0].unit).block_shares()
        tokens = sum(batch.ids.numel() for batch in batches)
        for mask in masks:
            started, sums = time.perf_counter(), torch.zeros(len(rows), dtype=torch.float64)
            for number, batch in enumerate(batches):
                sums.index_add_(0, batch.rows, self._values(number, batch, mask, readout))
            self.cost.block_tokens += round(tokens * sum(shares[i] for i in mask.kept))
            yield mask, sums.tolist(), time.perf_counter() - started

    @torch.inference_mode()
    def _values(self, number: int, batch: Batch, mask: Mask, readout: Readout) -> Tensor:
        logits, targets = self._logits(batch, mask), batch.targets.to(self.model.device)
        if readout is LIKELIHOOD:
            return -torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().cpu()
        if number not in self._dense_logits:
            self._dense_logits[number] = self._logits(batch, Mask(mask.n_blocks))
        dense = Distributions(self._dense_logits[number])
        return readout.value(Distributions(logits), dense, targets).double().cpu()

    def _logits(self, batch: Batch, mask: Mask) -> Tensor:
        """The logits (n, V) at the batch's targets, in float32."""
        inputs = batch.inputs(self.model.device, self.model.module.dtype)
        with masked(self.model.module, mask):
            logits: Tensor = self.model.module(**inputs, use_cache=False).logits.flatten(0, 1)
        return logits[batch.indices.to(logits.device)].float()
