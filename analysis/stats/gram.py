"""Sums of squares from distances, so that numbers and masks share the same algebra.

Gower's centred matrix G = -1/2 J D^2 J (J = I - 11'/n) holds the inner products of the observations after centring.
If Q is an orthonormal basis of some columns, these columns explain the sum of squares tr(Q'GQ) (McArdle and Anderson
2001). For centred numbers y, G is yy', and these sums of squares are those of the ordinary analysis of variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from pruning.core.mask import Mask

Matrix = NDArray[np.float64]
TOLERANCE = 1e-8


def of_distances(distances: ArrayLike) -> Matrix:
    """Gower's centred matrix of (n, n) distances."""
    squared = np.asarray(distances, float) ** 2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    return np.asarray(-0.5 * centred)


def of_values(values: ArrayLike) -> Matrix:
    """The centred matrix (n, n) of numbers: products of deviations from the mean."""
    y = np.asarray(values, float)
    return np.outer(y - y.mean(), y - y.mean())


def of_masks(masks: Sequence[Mask]) -> Matrix:
    """The centred matrix (n, n) of masks, from their Jaccard distances (1 minus the overlap)."""
    return of_distances([[1.0 - a.jaccard(b) for b in masks] for a in masks])


def basis(columns: Matrix, after: Matrix | None = None) -> Matrix:
    """An orthonormal basis (n, df) of what `columns` add to the span of the basis `after`."""
    rest = columns if after is None else columns - after @ (after.T @ columns)
    u, sizes, _ = linalg.svd(rest, full_matrices=False)
    return np.asarray(u[:, sizes > TOLERANCE * max(1.0, float(np.sqrt(len(columns))))])


def explained(gram: Matrix, q: Matrix) -> float:
    """tr(Q'GQ), the sum of squares along the basis Q."""
    return float(np.sum(q * (gram @ q)))


def coordinates(gram: Matrix) -> tuple[Matrix, Matrix]:
    """X (n, p) and signs s (p,) with G = X diag(s) X': principal coordinates.

    Jaccard distances are not Euclidean, so a few small eigenvalues can be negative. They are kept, because
    the sums of squares would not add up without them.
    """
    values, vectors = linalg.eigh(gram)
    kept = np.abs(values) > TOLERANCE * np.abs(values).max(initial=1e-300)
    return vectors[:, kept] * np.sqrt(np.abs(values[kept])), np.sign(values[kept])
