"""Criteria: losses of how far the hidden state moves between two depths of the dense model, measured in one pass.

Each criterion becomes a loss of masks, so any search can use it. Depth i is before unit i (a block or a sub-layer);
depth N is after the last unit and before the final norm. h_i is the state at depth i. Removing a run of units i..j-1
joins depth i to depth j. The loss of a mask is a sum, averaged over samples:

    by="block"    sum over removed units i of          distance(i, i + 1)      additive over units
    by="run"      sum over maximal runs i..j-1 of      distance(i, j)          as in Gromov et al. and MI-PRUN
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeAlias

import numpy as np

from pruning.core.errors import InputError, check_known, check_least
from pruning.core.mask import Mask
from pruning.objective import Forward, Loss, Samples, Scored, Tensor

Array: TypeAlias = np.ndarray[Any, Any]
# Maps the states (T, D) of one row at two depths, the earlier depth first, to a distance.
Distance: TypeAlias = Callable[[Tensor, Tensor], float]
BY = ("block", "run")


@dataclass(frozen=True)
class BlockInfluence:
    """1 - mean over tokens of the cosine between h_i and h_j: how much a block turns the state.

    Source: ShortGPT (arXiv 2403.03853, equation 1); with `by="run"`, LLM-Streamline (2403.19135). ShortGPT's code
    takes the last block's output after the final norm, which makes this block look more important than it is.
    """

    needs: ClassVar[str] = "any"
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""

        def turn(a: Tensor, b: Tensor) -> float:
            from torch.nn.functional import cosine_similarity

            return 1.0 - float(cosine_similarity(a.double(), b.double(), dim=-1).mean())

        return between_states(forward, samples, turn, self.by)


@dataclass(frozen=True)
class Angular:
    """The angle between the final token's states before and after a run of removed blocks, as a fraction of pi.

    With the final token T of a row, a run of removed blocks i..j-1 costs

        d(i, j) = arccos( <h_i(T), h_j(T)> / (|h_i(T)| |h_j(T)|) ) / pi

    Source: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers (arXiv 2403.17887), who consider
    masks of one run only: d(l, l + n).
    """

    needs: ClassVar[str] = "any"
    by: str = "run"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over runs of removed blocks, with one term per sample."""
        return between_states(forward, samples, _angle, self.by)


def _angle(a: Tensor, b: Tensor) -> float:
    from torch.nn.functional import cosine_similarity

    cosine = float(cosine_similarity(a[-1].double(), b[-1].double(), dim=0))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


@dataclass(frozen=True)
class RelativeMagnitude:
    """Mean over tokens of ||h_j - h_i|| / ||h_j||: the size of what a block adds, relative to its output.

    `norm` is the order p of the norm over the state's width: 2 or 1 (2407.16286 compares both).

    Source: Weight subcloning (Samragh et al., arXiv 2312.09299), where this ratio is a part of the method; ShortGPT
    (2403.03853) uses it as a baseline under this name.
    """

    needs: ClassVar[str] = "any"
    norm: int = 2
    by: str = "block"

    def __post_init__(self) -> None:
        check_known("objective", self, by=BY)
        if self.norm not in (1, 2):
            raise InputError(f"objective.norm={self.norm} is not supported: choose 1 or 2.")

    def bind(self, forward: Forward, samples: Samples) -> Loss:
        """The loss as a sum over removed blocks or runs, with one term per sample."""

        def added(a: Tensor, b: Tensor) -> float:
            before, after = a.double(), b.double()
            sizes = (after - before).norm(self.norm, dim=-1) / after.norm(self.norm, dim=-1)
            return float(sizes.mean())

        return between_states(forward, samples, added, self.by)


@dataclass(frozen=True)
class MutualInformation:
    """The negative mutual information, in nats, of the two states that a removal joins, summed over removed blocks.

    The mutual information of states of hundreds of dimensions cannot be estimated from hundreds of tokens. So both
    states of each token are projected on a random direction u, the same for both, because a residual stream has the
    same coordinates at every block. The mutual information of the projections is estimated over the tokens of a row:

        I(i, j) = mean over rows, mean over directions u of  MI( <u, h_i>, <u, h_j> )
        loss    = sum over runs i..j-1 of removed blocks of  -(j - i) * I(i, j)           by="run"
        loss    = sum over removed blocks i of               -I(i, i + 1)                 by="block"

    The information of a run is multiplied by its number of blocks; otherwise the loss, a sum of negative numbers,
    would be lower for many short runs than for one long run. By the data processing inequality, a run preserves no
    more information than any of its blocks.

    `projections` is the number of directions, and `tokens` the maximal number of tokens that are used per row; both
    are drawn with `seed`. For a row of fewer than three tokens, the information is set to 0.

    Source: MI-PRUN (arXiv 2601.07212), whose estimator we do not know. This is the sliced mutual information of
    Goldfeld and Greenewald (2110.05279), by scikit-learn's nearest-neighbour estimator (Kraskov et al., 2004).
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

        return _between_depths(samples, lost, self.by)

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
                for depth, state in enumerate(hidden):
                    values = state[line.index, chosen].double() @ directions
                    projected[line.row, depth, : len(chosen)] = values.cpu().numpy()
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


# From distances to a loss.


def between_states(forward: Forward, samples: Samples, distance: Distance, by: str = "block") -> Loss:
    """A loss that sums distances between states of the dense model, by block or by run."""

    @cache
    def distances(unit: str) -> Array:
        """(samples, N + 1, N + 1) for depths i < j; if `by` is "block", only j = i + 1 is filled."""
        from pruning.engine import collectives
        from pruning.engine.dense_pass import states

        depths = forward.n_units(unit) + 1
        found = np.zeros((len(samples.rows), depths, depths))
        reach = depths if by == "run" else 2
        for lines, hidden in states(forward, samples.rows, unit):
            for line in lines:
                row_states = [state[line.index, : line.length] for state in hidden]
                for i in range(depths):
                    for j in range(i + 1, min(depths, i + reach)):
                        found[line.row, i, j] = distance(row_states[i], row_states[j])
        return by_sample(samples, collectives.all_sum(found))

    return _between_depths(samples, lambda unit, i, j: distances(unit)[:, i, j], by)


def _between_depths(samples: Samples, value: Callable[[str, int, int], Array], by: str) -> Loss:
    """A loss that sums `value(unit, i, j)`, of shape (samples,), over the pairs of depths that a mask joins."""

    def total(mask: Mask) -> Array:
        pairs = runs(mask) if by == "run" else [(i, i + 1) for i in mask.dropped]
        return sum((value(mask.unit, i, j) for i, j in pairs), np.zeros(samples.count))

    return of_masks(samples, total)


def of_masks(samples: Samples, value: Callable[[Mask], Array]) -> Loss:
    """A loss whose terms (samples,) for a mask are `value(mask)`."""

    def terms(masks: Sequence[Mask]) -> Scored:
        for mask in masks:
            started = time.perf_counter()
            values = value(mask).tolist()
            yield mask, values, time.perf_counter() - started

    return Loss(samples.estimate(), terms)


def runs(mask: Mask) -> list[tuple[int, int]]:
    """The maximal runs i..j-1 of removed units, as (i, j)."""
    starts = [i for i in mask.dropped if i - 1 not in mask.dropped]
    stops = [i + 1 for i in mask.dropped if i + 1 not in mask.dropped]
    return list(zip(starts, stops, strict=True))


def by_sample(samples: Samples, rows: Array) -> Array:
    """The mean over the rows of each sample. A window has one row; an item has one row per choice."""
    ends = np.cumsum([len(unit) for unit in samples.units])
    return np.array([rows[a:b].mean(0) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
