"""Observations as coordinates, so that numbers and masks share the same algebra.

Gower's centred matrix G = -1/2 J D^2 J (J = I - 11'/n) of distances D holds the inner products of the observations
after centring. Here it is never computed for all pairs of cells. Instead, X (n, p) and signs s (p,) with
G = X diag(s) X' are kept. If Q is an orthonormal basis of some columns, these explain the sum of squares
tr(Q'GQ) = sum over p of s |Q'X|^2 (McArdle and Anderson 2001). For numbers, X is the deviation from the mean,
and these sums of squares are those of the ordinary analysis of variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from pruning.core.mask import Mask

from . import bits

Matrix = NDArray[np.float64]
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Coordinates:
    """X (n, p) and signs (p,).

    Jaccard distances are not Euclidean, so a few signs can be negative. They are kept, because the sums of squares
    would not add up without them.
    """

    x: Matrix
    signs: Matrix

    def squares(self, x: Matrix) -> float:
        """The sum of squares of vectors x (any, p) in these coordinates."""
        return float((x**2).sum(axis=0) @ self.signs)

    @property
    def total(self) -> float:
        """The sum of squares of all observations, tr(G)."""
        return self.squares(self.x)

    def take(self, rows: NDArray[np.int64]) -> Coordinates:
        """The coordinates of some observations, in a given order."""
        return Coordinates(self.x[rows], self.signs)

    def scaled(self) -> Coordinates:
        """Scaled to a mean square of one. Observations without spread become zero."""
        spread = self.total / max(1, len(self.x) - 1)
        return Coordinates(self.x / np.sqrt(spread) if spread > 1e-12 else self.x * 0, self.signs)


def of_values(values: ArrayLike) -> Coordinates:
    """Coordinates of numbers: deviations from the mean."""
    y = np.asarray(values, float)
    return Coordinates((y - y.mean())[:, None], np.ones(1))


def of_masks(masks: Sequence[Mask]) -> Coordinates:
    """Coordinates of masks, from their Jaccard distances (1 minus the overlap)."""
    words, which = np.unique(bits.words(masks), axis=0, return_inverse=True)
    shared, sizes = bits.shared(words[:, None], words), bits.sizes(words)
    either = sizes[:, None] + sizes - shared
    return of_distances(np.where(either > 0, 1.0 - shared / np.maximum(either, 1), 0.0), which.reshape(-1))


def of_distances(distances: ArrayLike, which: NDArray[np.int64] | None = None) -> Coordinates:
    """Principal coordinates of points with the distances (u, u).

    If `which` (n,) is given, observation i is the point `which[i]`, and only matrices of the size u are computed: if
    E (n, u) are the indicators of the points and N = E'E, then G = E H E', and the eigenvectors of G are
    E N^-1/2 V, where V are those of N^1/2 H N^1/2.
    """
    squared = np.asarray(distances, float) ** 2
    which = np.arange(len(squared)) if which is None else which
    counts = np.bincount(which, minlength=len(squared)).astype(float)
    mean = squared @ counts / counts.sum()
    inner = -0.5 * (squared - mean - mean[:, None] + counts @ mean / counts.sum())
    root = np.sqrt(counts)
    values, vectors = linalg.eigh(inner * root * root[:, None])
    kept = np.abs(values) > TOLERANCE * np.abs(values).max(initial=1e-300)
    points = vectors[:, kept] * np.sqrt(np.abs(values[kept])) / root[:, None]
    return Coordinates(points[which], np.sign(values[kept]))
