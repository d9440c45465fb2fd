"""The statistics of figure 5 in plain form: dense bases, matrices of all pairs of cells, resample by resample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg

from analysis.stats import mask_overlap
from analysis.stats.components import (
    PANEL,
    RESIDUAL,
    SOURCES,
    VarianceSource,
    bootstrap_weights,
    strata,
)
from analysis.stats.grid import DRAW, Labels, indicator, labels

Matrix = Any


def gram(cells: pd.DataFrame, values: Matrix | None) -> Matrix:
    """Gower's centred matrix (n, n) of one stratum, scaled to a mean square of one."""
    n = len(cells)
    if values is None:
        masks = mask_overlap.masks(cells)
        squared = np.array([[1.0 - a.jaccard(b) for b in masks] for a in masks]) ** 2
    else:
        squared = (values[:, None] - values) ** 2
    centre = np.eye(n) - 1 / n
    g = -0.5 * centre @ squared @ centre
    spread = np.trace(g) / max(1, n - 1)
    return g / spread if spread > 1e-12 else g * 0


def fitted(part: pd.DataFrame, groups: Sequence[Sequence[str]]) -> Matrix:
    """An orthonormal basis of the mean and of the levels of each group of columns."""
    n = len(part)
    columns = np.hstack([np.ones((n, 1)), *(indicator(labels(part, group)) for group in groups)])
    u, sizes, _ = linalg.svd(columns, full_matrices=False)
    return u[:, sizes > 1e-8 * np.sqrt(n)]


def projection(part: pd.DataFrame, columns: Sequence[str], given: Sequence[Sequence[str]]) -> Matrix:
    """The projection (n, n) onto what the levels of some columns add."""
    big, small = fitted(part, [*given, columns]), fitted(part, given)
    return big @ big.T - small @ small.T


def marginal(part: pd.DataFrame) -> dict[str, Matrix]:
    """The projections onto what each source explains beyond the sources that do not contain it, and the residual."""
    every = {}
    for source in SOURCES:
        others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
        every[source.name] = projection(part, source.columns, others)
    q = fitted(part, [s.columns for s in SOURCES])
    return {**every, RESIDUAL: np.eye(len(part)) - q @ q.T}


def resamples(
    frame: pd.DataFrame, grams: Sequence[Matrix], by: Sequence[str], drawn: Matrix
) -> list[list[Matrix]]:
    """For each resample and stratum, the matrix of inner products (n, n) of the resampled observations.

    Cell by cell: its mean over draws, plus weighted deviations of the same cell under all draws of the same data.
    """
    cluster, group = labels(frame, DRAW), labels(frame, [name for name in DRAW if name != "draw"])
    partners = int(pd.Series(cluster).groupby(group).nunique().max())
    every: list[list[Matrix]] = [[] for _ in drawn]
    for rows, g in zip(strata(frame, by), grams, strict=True):
        same = indicator(labels(frame.iloc[rows], PANEL))
        deviate = np.eye(len(rows)) - same @ (same.T / same.sum(0)[:, None])
        for resampled, weight in zip(every, drawn, strict=True):
            move = np.eye(len(rows)) - deviate
            for i, row in enumerate(rows):
                peers = [j for j in range(len(rows)) if same[i] @ same[j]]
                of_group = np.unique(cluster[group == group[row]])
                for j in peers:
                    step = (
                        list(of_group).index(cluster[rows[j]]) - list(of_group).index(cluster[row])
                    ) % len(of_group)
                    size = weight[cluster[row] * partners + step] / np.sqrt(max(len(peers) - 1, 1))
                    move[i] = move[i] + size * deviate[j]
            resampled.append(move @ g @ move.T)
    return every


def drawn_weights(frame: pd.DataFrame, count: int, seed: int) -> Matrix:
    """The weights of the resamples, one for each draw and each of its partners."""
    cluster, group = labels(frame, DRAW), labels(frame, [name for name in DRAW if name != "draw"])
    partners = int(pd.Series(cluster).groupby(group).nunique().max())
    return bootstrap_weights((int(cluster.max()) + 1) * partners, count, seed)


def explained(part: pd.DataFrame, levels: Labels, source: VarianceSource, g: Matrix) -> float:
    """The sum of squares that levels (n,) add to the columns that a source is adjusted for."""
    q = fitted(part, source.given)
    u, sizes, _ = linalg.svd(np.hstack([q, indicator(levels)]), full_matrices=False)
    both = u[:, sizes > 1e-8 * np.sqrt(len(part))]
    return float(np.sum(both * (g @ both)) - np.sum(q * (g @ q)))
