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

from . import coordinates, permute
from .coordinates import Coordinates
from .grid import STRATUM
from .removal import masks
from .sources import RESIDUAL, SOURCES, marginal, sequential, strata
from .span import Addition, Spans


def outcome(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Coordinates]:
    """The coordinates of each stratum, scaled to a mean square of one. `values` are numbers, or None for masks.

    The scale gives every stratum the same weight in tests, whatever its spread. A stratum without spread is zero.
    """
    return [c.scaled() for c in plain(frame, values, by)]


def plain(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Coordinates]:
    """The coordinates of each stratum in the units of the outcome. `values` are numbers, or None for masks."""
    y = None if values is None else np.asarray(values, float)
    return [
        coordinates.of_masks(masks(frame.iloc[rows])) if y is None else coordinates.of_values(y[rows])
        for rows in strata(frame, by)
    ]


def table(
    frame: pd.DataFrame,
    of: Sequence[Coordinates],
    by: Sequence[str] = STRATUM,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per source: df, sequential and marginal sum of squares, share, pseudo-F, p, note if p is missing."""
    parts = [Spans(frame.iloc[rows]) for rows in strata(frame, by)]
    added = [sequential(part) for part in parts]
    total = sum(c.total for c in of)
    rest, rest_df = squares(of, [a[RESIDUAL] for a in added])
    rows = []
    for source in SOURCES:
        ss, df = squares(of, [a[source.name] for a in added])
        adjusted, _ = squares(of, [marginal(part, source) for part in parts])
        f = ss / df / (rest / rest_df) if df and rest_df and rest > 1e-12 else float("nan")
        p, note = (
            permute.p_value(frame, of, source, by, permutations, seed) if df else (float("nan"), "one level")
        )
        rows.append([source.name, df, ss, ss / total if total else float("nan"), adjusted, f, p, note])
    nan = float("nan")
    rows.append([RESIDUAL, rest_df, rest, rest / total if total else nan, rest, nan, nan, ""])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "marginal_ss", "f", "p", "note"])


def squares(of: Sequence[Coordinates], added: Sequence[Addition]) -> tuple[float, int]:
    """The sum of squares that a source explains, summed over strata, and its degrees of freedom."""
    return sum(a.squares(c) for c, a in zip(of, added, strict=True)), sum(a.df for a in added)
