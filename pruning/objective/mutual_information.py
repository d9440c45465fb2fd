"""Mutual information. Source: MI-PRUN (arXiv 2601.07212), whose estimator we do not know.

Here it is the sliced mutual information of Goldfeld and Greenewald (2110.05279), with scikit-learn's
nearest-neighbour estimator (Kraskov et al., 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from pruning.core.errors import check_known, check_least
from pruning.objective import Forward, Loss, Samples
from pruning.objective._criteria import BY, Array, between_depths, by_sample


@dataclass(frozen=True)
class MutualInformation:
    """Minus the mutual information, in nats, of the states before and after removed blocks, summed over these blocks.

    Mutual information in hundreds of dimensions cannot be estimated from hundreds of tokens. So a token's
    states h_i and h_j, before and after removed blocks, are projected onto one random direction u, the same for both,
    because blocks share the residual stream. The projections' mutual information is estimated over a row's tokens:

        I(i, j) = mean over rows, mean over directions u of  MI( <u, h_i>, <u, h_j> )
        loss    = sum over runs i..j-1 of removed blocks of  -(j - i) * I(i, j)           by="run"
        loss    = sum over removed blocks i of               -I(i, i + 1)                 by="block"

    The information of a run is multiplied by its number of blocks. Otherwise the loss, a sum of negative
    numbers, would be lower for many short runs than for one long run. By the data processing inequality, a
    run preserves no more information than any of its blocks.

    `projections` is the number of directions, and `tokens` the largest number of tokens used per row;
    directions and tokens are drawn with `seed`. For a row of fewer than three tokens, the information is set to 0.
    """

    needs: ClassVar[str] = "any"
    projections: int = 8
    tokens: int = 128
    neighbors: int = 3
    seed: int = 0
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)
        check_least("objective", self, projections=1, tokens=8, neighbors=1, seed=0)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""

        @cache
        def projected(unit: str) -> list[Array]:
            return self._projected(forward, samples, unit)

        @cache
        def lost(unit: str, i: int, j: int) -> Array:
            rows = np.array([(i - j) * self._information(row[i], row[j]) for row in projected(unit)])
            return by_sample(samples, rows)

        return between_depths(samples, lost, self.by)

    def _projected(self, forward: Forward, samples: Samples, unit: str) -> list[Array]:
        """For each row, the projected states at all depths, (N + 1, tokens, projections)."""
        import torch

        from pruning.engine import collectives
        from pruning.engine.dense_pass import states

        depths = forward.n_units(unit) + 1
        projected = np.zeros((len(samples.rows), depths, self.tokens, self.projections))
        for lines, hidden in states(forward, samples.rows, unit):
            directions = torch.from_numpy(self._directions(hidden[0].shape[-1])).to(hidden[0].device)
            for line in lines:
                chosen = self._chosen(line.length)
                at = torch.from_numpy(chosen).to(directions.device)
                values = torch.stack([state[line.index, at].double() @ directions for state in hidden])
                projected[line.row, :, : len(chosen)] = values.cpu().numpy()
        projected = collectives.all_sum(projected)
        sizes = [min(self.tokens, len(row.input_ids)) for row in samples.rows]
        return [row[:, :size] for row, size in zip(projected, sizes, strict=True)]

    def _directions(self, width: int) -> Array:
        """Random unit vectors (D, projections)."""
        drawn: Array = np.random.default_rng(self.seed).standard_normal((width, self.projections))
        unit: Array = drawn / np.linalg.norm(drawn, axis=0)
        return unit

    def _chosen(self, length: int) -> Array:
        """The positions of the tokens chosen from a row. They depend only on the row's length and the seed."""
        count = min(self.tokens, length)
        return np.sort(np.random.default_rng(self.seed).choice(length, count, replace=False))

    def _information(self, a: Array, b: Array) -> float:
        """The mean over directions of the mutual information of projected states (tokens, projections)."""
        from sklearn.feature_selection import mutual_info_regression

        neighbors = min(self.neighbors, len(a) - 2)
        if neighbors < 1:
            return 0.0
        settings = {"n_neighbors": neighbors, "random_state": self.seed}
        columns = range(self.projections)
        return float(np.mean([mutual_info_regression(a[:, [p]], b[:, p], **settings) for p in columns]))
