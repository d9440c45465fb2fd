"""Taylor: the first-order estimate of how the loss changes if a block's weights are set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from pruning.objective import Forward, Loss, Samples
from pruning.objective._criteria import Array, of_masks


@dataclass(frozen=True)
class Taylor:
    """Sum over a block's weights w of |w * dL/dw|, from one backward pass per sample.

    L is the mean negative log-likelihood per token of a window or of an item's right answer. With the weights
    W_i of block i

        score of i = mean over samples s of  sum over w in W_i of | w * dL_s / dw |
        loss       = sum over removed blocks of their scores

    Source: Shortened LLaMA (arXiv 2402.02834; code Nota-NetsPresso/shortened-llm), criterion "Taylor". Its
    "Taylor+" (here `objective=taylor_plus`) also protects the first four and the last two blocks. Deviation:
    in the published code, L is the mean loss of ten samples, and biases are left out. Here L is the loss of
    one sample, so the score has a standard error, and opposite signs in different samples do not cancel.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks. A sample's term needs one forward and one backward pass."""
        scores = cache(lambda unit: _saliences(forward, samples, unit))
        return of_masks(samples, lambda mask: scores(mask.unit)[:, list(mask.dropped)].sum(1))


def _saliences(forward: Forward, samples: Samples, unit: str) -> Array:
    """The score (samples, N) of each unit, computed from each sample's gradient."""
    import torch

    from pruning.engine import collectives
    from pruning.engine.dense_pass import backward

    rows = [row for unit in samples.units for row in unit if row.right is not False]  # one per sample
    scores = np.zeros((len(rows), forward.n_units(unit)))
    for (line,), steps in backward(forward, rows, batch_tokens=1, weights=True, unit=unit):
        tokens = rows[line.row].span[1] - rows[line.row].span[0]
        found = torch.zeros(scores.shape[1], dtype=torch.float64, device=forward.model.device)
        for step in steps:
            for weight, gradient in step.weights:
                wide = torch.promote_types(weight.dtype, torch.float32)
                total = (weight.detach().to(wide) * gradient).abs().sum(dtype=torch.float64)
                found[step.index] += total.to(found.device) / tokens
        scores[line.row] = found.cpu().numpy()  # one copy for each sample
    return collectives.all_sum(scores)
