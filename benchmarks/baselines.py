"""The baseline of the benchmarks: one masked forward pass per mask, as in every public tool.

SLEB's published code (arXiv 2402.09025) runs one window at a time, as the baseline does if `ONE_WINDOW` is
its batch size. Two needless costs of that code are avoided: no key-value cache is kept, and torch's
inference mode is on. Logits are normalised in float32, since bfloat16 would change the masks that are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Distributions, Readout
from pruning.models.sublayers import masked

ONE_WINDOW = 1  # tokens in a batch; every window is longer, so each is a batch of its own


@dataclass
class Plain(Forward):
    """For each mask, run all kept blocks and the whole head on all rows, in the engine's batches."""

    _dense_logits: dict[int, Tensor] = field(default_factory=dict)  # by the batch's number

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """Like `Forward.sums`, but seconds are not measured. The dense model's logits are computed once per batch."""
        batches, masks = make_batches(single(rows), self.batch_tokens), list(masks)
        for mask in masks:
            sums = torch.zeros(len(rows), dtype=torch.float64)
            for number, batch in enumerate(batches):
                sums.index_add_(0, batch.rows, self._read_values(number, batch, mask, readout))
            yield mask, sums.tolist(), 0.0

    @torch.inference_mode()
    def _read_values(self, number: int, batch: Batch, mask: Mask, readout: Readout) -> Tensor:
        logits, targets = self._logits(batch, mask), batch.targets.to(self.model.device)
        if readout is LIKELIHOOD:
            return -cross_entropy(logits, targets, reduction="none").double().cpu()
        if number not in self._dense_logits:
            self._dense_logits[number] = self._logits(batch, Mask(mask.n_blocks))
        dense = Distributions(self._dense_logits[number])
        return readout.value(Distributions(logits), dense, targets).double().cpu()

    def _logits(self, batch: Batch, mask: Mask) -> Tensor:
        """The float32 logits at the batch's n targets, of shape (n, vocabulary size)."""
        inputs = batch.inputs(self.model.device, self.model.module.dtype)
        with masked(self.model.module, mask):
            logits: Tensor = self.model.module(**inputs, use_cache=False).logits.flatten(0, 1)
        return logits[batch.indices.to(logits.device)].float()
