"""The baseline "as SLEB's published code does it": one window at a time, the whole head, one pass per candidate.

Source: SLEB (arXiv 2402.09025) scores each candidate by the loss of the whole model on one window after the other.
This is our own reimplementation, with what costs it nothing: no cache, inference mode, and the engine's precision.
Logits are copied without the last position and normalised in float32, since bfloat16 would change the masks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD, Readout
from pruning.models.sublayers import masked

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


@dataclass
class Published(Forward):
    """The baseline, for windows of text."""

    def sums(
        self, rows: Sequence[Row], masks: Iterable[Mask], readout: Readout
    ) -> Iterator[tuple[Mask, list[float], float]]:
        """See `Forward.sums`; only for log-likelihoods."""
        assert readout is LIKELIHOOD
        for mask in masks:
            started = time.perf_counter()
            with torch.inference_mode(), masked(self.model.module, mask):
                sums = [self._window(row) for row in rows]
            self.cost.block_tokens += len(mask.kept) * sum(len(row.input_ids) for row in rows)
            yield mask, sums, time.perf_counter() - started

    def _window(self, row: Row) -> float:
        ids = torch.tensor([row.input_ids], device=self.model.device)
        logits = self.model.module(input_ids=ids, use_cache=False).logits
        shifted, following = logits[:, :-1].contiguous().float(), ids[:, 1:]
        losses = torch.nn.functional.cross_entropy(
            shifted.flatten(0, 1), following.flatten(), reduction="none"
        )
        return -float(losses[row.span[0] - 1 : row.span[1] - 1].double().sum())
