"""What explains the outcomes of a study: sums of squares of factors and interactions, with permutation p-values.

For masks, the method is PERMANOVA (Anderson 2001) on Jaccard distance. For numbers, it is the analysis of variance
with p-values from permutations. Distances between masks of different models are undefined, so everything is measured
within strata (one model and one k) and summed over strata. `between.py` measures how outcomes differ across strata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from . import gram, permute
from .gram import Matrix
from .grid import STRATUM
from .overlap import masks
from .sources import RESIDUAL, SOURCES, marginal, sequential, strata


def grams(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Matrix]:
    """The centred matrix of each stratum, scaled to a mean square of one. `values` are numbers, or None for masks.

    The scale gives every stratum the same weight, whatever its spread. A stratum without spread keeps a zero matrix.
    """
    y = None if values is None else np.asarray(values, float)
    scaled = []
    for rows in strata(frame, by):
        g = gram.of_masks(masks(frame.iloc[rows])) if y is None else gram.of_values(y[rows])
        spread = float(np.trace(g)) / max(1, len(rows) - 1)
        scaled.append(g / spread if spread > 1e-12 else g * 0)
    return scaled


def table(
    frame: pd.DataFrame,
    of: Sequence[Matrix],
    by: Sequence[str] = STRATUM,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per source: df, sequential and marginal sum of squares, share, pseudo-F, p, note if p is missing."""
    parts = [frame.iloc[rows] for rows in strata(frame, by)]
    bases = [sequential(part) for part in parts]
    total = sum(float(np.trace(g)) for g in of)
    rest, rest_df = squares(of, [b[RESIDUAL] for b in bases])
    rows = []
    for source in SOURCES:
        ss, df = squares(of, [b[source.name] for b in bases])
        adjusted, _ = squares(of, [marginal(part, source) for part in parts])
        f = ss / df / (rest / rest_df) if df and rest_df and rest > 1e-12 else float("nan")
        p, note = (
            permute.p_value(frame, of, source, by, permutations, seed) if df else (float("nan"), "one level")
        )
        rows.append([source.name, df, ss, ss / total if total else float("nan"), adjusted, f, p, note])
    nan = float("nan")
    rows.append([RESIDUAL, rest_df, rest, rest / total if total else nan, rest, nan, nan, ""])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "marginal_ss", "f", "p", "note"])


def squares(of: Sequence[Matrix], bases: Sequence[Matrix]) -> tuple[float, int]:
    """The sum of squares along the bases, summed over strata, and its degrees of freedom."""
    ss = sum(gram.explained(g, q) for g, q in zip(of, bases, strict=True))
    return ss, sum(q.shape[1] for q in bases)
