"""The overlap of all pairs of masks whose cells differ in one factor only."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import pairing
from .draw_means import CellDraws, DrawMean, over_pairs
from .grid import CELL, COMPARISONS, Labels, labels
from .overlap import MaskSet


def panels(frame: pd.DataFrame, comparison: str) -> Labels:
    """The group (cells,) of each cell. Cells of a group are equal except in the columns of the comparison."""
    fixed = [column for column in CELL if column not in COMPARISONS[comparison]]
    return labels(frame, [*fixed, "protect_first", "protect_last"])


def pairs(frame: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Overlap, corrected overlap and p of pairs of cells that differ only in the columns COMPARISONS[comparison].

    Pairs with different protected blocks are omitted, because both masks need the same open blocks in the null model.
    All other pairs are compared, except in very large groups (see `pairing`). `draw_a` and `data_a` number the
    calibration draw of the first cell and its data, `draw_b` and `data_b` those of the second.
    """
    name = COMPARISONS[comparison][0]
    i, j = pairing.within(panels(frame, comparison), labels(frame, [name]))
    overlaps, drawn = MaskSet.of(frame).pairs(i, j), CellDraws.of(frame)
    columns = {column: frame[column].to_numpy() for column in ("model", "k", "objective", "algo")}
    shown = {c: v[i] if c != name else np.full(len(i), "", dtype=object) for c, v in columns.items()}
    shown |= {"a": frame[name].to_numpy()[i], "b": frame[name].to_numpy()[j]}
    for end, rows in (("a", i), ("b", j)):
        shown |= {f"draw_{end}": drawn.draw[rows], f"data_{end}": drawn.data[rows]}
    return pd.DataFrame(
        shown | {"jaccard": overlaps.jaccard, "corrected": overlaps.corrected, "p": overlaps.p}
    )


def mean(pairs: pd.DataFrame) -> DrawMean:
    """The mean corrected overlap of pairs, with its interval over calibration draws."""
    ends = [CellDraws(pairs[f"draw_{end}"].to_numpy(), pairs[f"data_{end}"].to_numpy()) for end in "ab"]
    return over_pairs(pairs["corrected"], *ends)


def note(frame: pd.DataFrame) -> str:
    """What is left out of the pairs of a study; empty if every pair is compared."""
    groups = [panels(frame, comparison) for comparison in COMPARISONS]
    groups.append(labels(frame, ["model", "k", "objective", "algo"]))  # the diagonal of figure 4
    return pairing.SAMPLED if any(pairing.sampled(group) for group in groups) else ""
