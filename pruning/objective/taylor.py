"""Taylor: the first-order change of the loss if each weight of a block is set to zero."""

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

    L is the mean negative log-likelihood of a sample: over a window, or over the right answer of an item. With the
    weights W_i of block i

        score of i = mean over samples s of  sum over w in W_i of | w * dL_s / dw |
        loss       = sum over removed blocks of their scores

    Source: Shortened LLaMA (arXiv 2402.02834; code Nota-NetsPresso/shortened-llm), criterion "Taylor". Its "Taylor+"
    (here `objective=taylor_plus`) also protects the first four and the last two blocks. Deviation: the published code
    takes the absolute value of w * dL/dw with L the mean loss of its ten samples, and leaves biases out. Here it is
    taken for each sample, so that the loss has a standard error; opposite signs in different samples do not cancel.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks, from one forward and backward pass, with one term per sample."""
        scores = cache(lambda unit: _saliences(forward, samples, unit))
        return of_masks(samples, lambda mask: scores(mask.unit)[:, list(mask.dropped)].sum(1))


def _saliences(forward: Forward, samples: Samples, unit: str) -> Array:
    """The score of each unit from the gradient of each sample, (samples, N)."""
    import torch

    from pruning.engine import collectives
    from pruning.engine.dense_pass import backward

    rows = [row for unit in samples.units for row in unit if row.right is not False]  # one per sample
    scores = np.zeros((len(rows), forward.n_units(unit)))
    for (line,), steps in backward(forward, rows, batch_tokens=1, weights=True, unit=unit):
        tokens = rows[line.row].span[1] - rows[line.row].span[0]
        for step in steps:
            for weight, gradient in step.weights:
                wide = torch.promote_types(weight.dtype, torch.float32)
                total = (weight.detach().to(wide) * gradient).abs().sum(dtype=torch.float64)
                scores[line.row, step.index] += float(total) / tokens
    return collectives.all_sum(scores)
