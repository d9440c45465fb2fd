"""The overlap of all pairs of masks whose cells differ in one factor only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from . import pairing
from .draw_means import CellDraws, DrawMean, over_pairs
from .grid import CELL, COMPARISONS, DRAW, STRATUM, Labels, labels
from .overlap import MaskSet

OF_DRAWS = ("draw", "data", "source")  # the fields of CellDraws


def compared(frame: pd.DataFrame, comparison: str) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of the pairs of a comparison."""
    return pairing.within(panels(frame, comparison), labels(frame, [COMPARISONS[comparison][0]]))


def panels(frame: pd.DataFrame, comparison: str) -> Labels:
    """The group (cells,) of each cell. Cells of a group are equal except in the columns of the comparison."""
    fixed = [column for column in CELL if column not in COMPARISONS[comparison]]
    return labels(frame, [*fixed, "protect_first", "protect_last"])


def pairs(frame: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Overlap, corrected overlap and p of pairs of cells that differ only in the columns COMPARISONS[comparison].

    `lowest` is the lowest corrected overlap that masks of these sizes can have.

    Pairs with different protected blocks are omitted, because both masks need the same open blocks in the null model.
    All other pairs are compared, except in very large groups (see `pairing`). `draw_a`, `data_a` and `source_a` are
    those of the first cell (see `CellDraws`), `draw_b`, `data_b` and `source_b` those of the second.
    """
    name = COMPARISONS[comparison][0]
    i, j = compared(frame, comparison)
    overlaps, drawn = MaskSet.of(frame).pairs(i, j), CellDraws.of(frame)
    columns = {column: frame[column].to_numpy() for column in ("model", "k", "objective", "algo")}
    shown = {c: v[i] if c != name else np.full(len(i), "", dtype=object) for c, v in columns.items()}
    shown |= {"a": frame[name].to_numpy()[i], "b": frame[name].to_numpy()[j]}
    for end, rows in (("a", i), ("b", j)):
        shown |= {f"{name}_{end}": getattr(drawn, name)[rows] for name in OF_DRAWS}
    shown |= {name: getattr(overlaps, name) for name in ("jaccard", "corrected", "lowest", "p")}
    return pd.DataFrame(shown)


def on_common_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells whose samples, for the same model and size, several objectives have read."""
    samples = labels(frame, [*STRATUM, *DRAW, "protect_first", "protect_last"])
    return frame[frame["objective"].groupby(samples).transform("nunique").to_numpy() > 1]


def apart(frame: pd.DataFrame) -> str:
    """Which objectives have no samples in common with another one, as a clause; empty if there are none.

    They are compared with no other. For example, a margin needs items, and a perplexity needs text.
    """
    every = set(frame["objective"])
    names = sorted(every - set(on_common_samples(frame)["objective"]))
    if not names or len(every) == 1:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f"without {' and '.join(names)}, which {have} no samples in common with another objective"


def mean(pairs: pd.DataFrame) -> DrawMean:
    """The mean corrected overlap of pairs, with its interval over calibration draws.

    The interval is cut to what overlaps of such masks can be: from the mean of `lowest` to 1.
    """
    ends = [CellDraws(*(pairs[f"{name}_{end}"].to_numpy() for name in OF_DRAWS)) for end in "ab"]
    mean = over_pairs(pairs["corrected"], *ends)
    low = float(np.maximum(pairs["lowest"].mean(), mean.low))
    return replace(mean, low=low, high=float(np.minimum(1.0, mean.high)))


def note(frame: pd.DataFrame) -> str:
    """What is left out of the pairs of a study; empty if every pair is compared."""
    groups = [panels(frame, comparison) for comparison in COMPARISONS]
    groups.append(labels(frame, ["model", "k", "objective", "algo"]))  # the diagonal of figure 4
    parts = [pairing.SAMPLED] if any(pairing.sampled(group) for group in groups) else []
    parts += [f"pairs of objectives are on the same samples, {left}"] if (left := apart(frame)) else []
    return "; ".join(parts)
