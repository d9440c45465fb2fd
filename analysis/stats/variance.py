"""What explains where a study ended: sums of squares of factors and interactions, with permutation p-values.

On masks this is PERMANOVA (Anderson 2001) on Jaccard distance; on numbers the analysis of variance with its
p-values from permutations. Everything is measured within strata (one model and one k), since masks of
different models have no distance, and summed over them; `between` says how outcomes differ across strata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.stats import gram, permute
from analysis.stats.gram import Matrix
from analysis.stats.grid import SETTING, STRATUM, indicator, labels
from analysis.stats.overlap import masks
from analysis.stats.sources import RESIDUAL, SOURCES, Source, fitted, marginal, sequential, strata


def grams(frame: pd.DataFrame, values: ArrayLike | None, by: Sequence[str] = STRATUM) -> list[Matrix]:
    """The centred matrix of each stratum, of numbers or (None) of masks, scaled to a mean square of one.

    The scale lets every stratum count alike, whatever the spread of its numbers. A stratum without any
    spread stays at zero.
    """
    y = None if values is None else np.asarray(values, float)
    found = []
    for rows in strata(frame, by):
        g = gram.of_masks(masks(frame.iloc[rows])) if y is None else gram.of_values(y[rows])
        spread = float(np.trace(g)) / max(1, len(rows) - 1)
        found.append(g / spread if spread > 1e-12 else g * 0)
    return found


def table(
    frame: pd.DataFrame,
    of: Sequence[Matrix],
    by: Sequence[str] = STRATUM,
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a source: df, sequential and marginal sum of squares, share, pseudo-F, p, and why there is no p."""
    parts = [frame.iloc[rows] for rows in strata(frame, by)]
    bases = [sequential(part) for part in parts]
    total = sum(float(np.trace(g)) for g in of)
    rest, rest_df = _squares(of, [b[RESIDUAL] for b in bases])
    rows = []
    for source in SOURCES:
        ss, df = _squares(of, [b[source.name] for b in bases])
        adjusted, _ = _squares(of, [marginal(part, source) for part in parts])
        f = ss / df / (rest / rest_df) if df and rest_df and rest > 1e-12 else float("nan")
        p, note = (
            permute.p_value(frame, of, source, by, permutations, seed) if df else (float("nan"), "one level")
        )
        rows.append([source.name, df, ss, ss / total if total else float("nan"), adjusted, f, p, note])
    nan = float("nan")
    rows.append([RESIDUAL, rest_df, rest, rest / total if total else nan, rest, nan, nan, ""])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "marginal_ss", "f", "p", "note"])


def _squares(of: Sequence[Matrix], bases: Sequence[Matrix]) -> tuple[float, int]:
    ss = sum(gram.explained(g, q) for g, q in zip(of, bases, strict=True))
    return ss, sum(q.shape[1] for q in bases)


# Across strata. Model and ratio are crossed with all the rest, so their labels may be
# exchanged among the cells that are equal in everything else.
_OTHERS, _REST = tuple(SETTING), (*SETTING, "algo")
BETWEEN = (
    Source("model", ("model",), (("ratio",), _REST), "model", (*STRATUM, *_REST), ("ratio", *_REST)),
    Source("ratio", ("ratio",), (("model",), _REST), "ratio", (*STRATUM, *_REST), ("model", *_REST)),
    Source("model x ratio", ("model", "ratio"), (("model",), ("ratio",), _REST)),
    Source("model x objective", ("model", "objective"), (("model", "ratio"), _OTHERS, ("algo",))),
    Source("model x algorithm", ("model", "algo"), (("model", "ratio"), _OTHERS, ("algo",))),
    Source("ratio x objective", ("ratio", "objective"), (("model", "ratio"), _OTHERS, ("algo",))),
    Source("ratio x algorithm", ("ratio", "algo"), (("model", "ratio"), _OTHERS, ("algo",))),
)


def between(
    frame: pd.DataFrame,
    values: ArrayLike | None,
    by: Sequence[str] = (),
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """How an outcome differs between models and ratios, and whether objectives and algorithms act alike in them.

    Of numbers, or (None) of masks. Each row is adjusted for what stands in its `given`; the share is of the sum of
    squares over all cells. With `by` everything is measured within the levels of some columns.
    """
    of = grams(frame, values, by)
    parts = [frame.iloc[rows] for rows in strata(frame, by)]
    total = sum(float(np.trace(g)) for g in of)
    rows = []
    for source in BETWEEN:
        bases = [gram.basis(indicator(labels(p, source.columns)), fitted(p, source.given)) for p in parts]
        ss, df = _squares(of, bases)
        p, note = permute.p_value(frame, of, source, by, permutations, seed) if df else (np.nan, "one level")
        rows.append([source.name, df, ss, ss / total if total and df else np.nan, p, note])
    return pd.DataFrame(rows, columns=["source", "df", "ss", "share", "p", "note"])
