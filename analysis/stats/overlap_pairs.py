"""The overlap of all pairs of masks whose cells differ in one factor only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from . import pairing
from .draw_means import DATA, CellDraws, DrawMean, over_pairs
from .grid import CELL, COMPARISONS, Labels, labels
from .overlap import MaskSet

OF_DRAWS = ("draw", "data", "source")  # the fields of CellDraws


def compared(frame: pd.DataFrame, comparison: str) -> tuple[Labels, Labels]:
    """The rows (pairs,) and (pairs,) of the pairs of a comparison.

    Objectives can need different data, but not different numbers of samples from the same data: such pairs, which
    differ in more than the objective, are left out.
    """
    i, j = pairing.within(panels(frame, comparison), labels(frame, [COMPARISONS[comparison][0]]))
    source, data = labels(frame, ["calibration"]), labels(frame, DATA)
    alike = (source[i] != source[j]) | (data[i] == data[j])
    return i[alike], j[alike]


def panels(frame: pd.DataFrame, comparison: str) -> Labels:
    """The group (cells,) of each cell. Cells of a group are equal except in the columns of the comparison."""
    fixed = [column for column in CELL if column not in COMPARISONS[comparison]]
    return labels(frame, [*fixed, "protect_first", "protect_last"])


def pairs(frame: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Overlap, corrected overlap and p of pairs of cells that differ only in the columns COMPARISONS[comparison].

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
    return pd.DataFrame(
        shown | {"jaccard": overlaps.jaccard, "corrected": overlaps.corrected, "p": overlaps.p}
    )


def mean(pairs: pd.DataFrame) -> DrawMean:
    """The mean corrected overlap of pairs, with its interval over calibration draws, which ends at 1."""
    ends = [CellDraws(*(pairs[f"{name}_{end}"].to_numpy() for name in OF_DRAWS)) for end in "ab"]
    mean = over_pairs(pairs["corrected"], *ends)
    return replace(mean, high=float(np.minimum(1.0, mean.high)))


def note(frame: pd.DataFrame) -> str:
    """What is left out of the pairs of a study; empty if every pair is compared."""
    groups = [panels(frame, comparison) for comparison in COMPARISONS]
    groups.append(labels(frame, ["model", "k", "objective", "algo"]))  # the diagonal of figure 4
    return pairing.SAMPLED if any(pairing.sampled(group) for group in groups) else ""
