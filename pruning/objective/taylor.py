"""Taylor: how much the loss would change, to first order, if each weight of a block were set to zero.

Source: Shortened LLaMA (arXiv 2402.02834; code Nota-NetsPresso/shortened-llm), criterion "Taylor". Its
"Taylor+" is the same with the first four and the last two blocks protected: `objective=taylor_plus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pruning.objective import Loss, _criteria

if TYPE_CHECKING:
    from pruning.calibration.samples import Samples
    from pruning.engine.forward import Forward


@dataclass(frozen=True)
class Taylor:
    """Sum over a block's weights w of |w * dL/dw|, from one backward pass a sample.

    L is a sample's mean negative log-likelihood: over a window, or over the right answer of an item. With the weights
    W_i of block i

        score of i = mean over samples s of  sum over w in W_i of | w * dL_s / dw |
        loss       = sum over removed blocks of their scores

    Deviation: the published code takes absolute values of w * dL/dw for the mean loss of its ten samples. They are
    taken for each sample here, so that there is a term for each sample, and with it a standard error; opposite signs
    of different samples no longer cancel. Biases count like other weights; the code has weights only.
    """

    needs: ClassVar[str] = "any"

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """A sum over removed blocks, from one dense pass forth and back; one term a sample."""
        return _criteria.additive(samples, lambda: _saliences(forward, samples))


def _saliences(forward: Forward, samples: Samples) -> np.ndarray[Any, Any]:
    """(samples, N): of each block, by the gradient of each sample."""
    import torch

    from pruning.distributed import collectives
    from pruning.engine.dense_pass import backward

    rows = [row for unit in samples.units for row in unit if row.right is not False]  # one a sample
    found = np.zeros((len(rows), forward.n_blocks))
    for (line,), steps in backward(forward, rows, batch_tokens=1, weights=True):
        tokens = rows[line.row].span[1] - rows[line.row].span[0]
        for step in steps:
            for weight, gradient in step.weights:
                wide = torch.promote_types(weight.dtype, torch.float32)
                total = (weight.detach().to(wide) * gradient).abs().sum(dtype=torch.float64)
                found[line.row, step.index] += float(total) / tokens
    return collectives.all_sum(found)
