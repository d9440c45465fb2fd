"""Means with 95 percent intervals over calibration draws, which are the only random part of a study's design.

Searches, objectives and calibration data are fixed; a draw is a random sample of its data. Cells of one draw are not
independent, so a jackknife within each data set leaves out whole draws (Efron and Stein 1981; for pairs of masks,
Arvesen 1969). The interval is Student's, and its degrees of freedom are the number of draws minus that of data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .grid import DRAW, SETTING, Labels, groups, labels

NAN = float("nan")
DATA = [column for column in DRAW if column != "draw"]


@dataclass(frozen=True)
class DrawMean:
    """A mean over cells or pairs, with its standard error and interval over draws.

    Error and interval are NaN if a data set would have no value after one of its draws is left out, or if
    larger draws from a source contain smaller ones.
    """

    mean: float
    error: float
    low: float
    high: float
    draws: int


@dataclass(frozen=True)
class CellDraws:
    """For each cell, numbers (cells,) that identify its draw, its data set, and the source of its data set.

    Objectives can share draws. Data sets from one source differ in the number or the length of their samples. If
    `source` is None, no two data sets have a common source.
    """

    draw: Labels
    data: Labels
    source: Labels | None = None

    @classmethod
    def of(cls, frame: pd.DataFrame) -> CellDraws:
        """The draws of the cells of a frame."""
        return cls(*(labels(frame, columns) for columns in (DRAW, DATA, ["calibration"])))

    def take(self, rows: Any) -> CellDraws:
        """The draws of the cells in `rows`."""
        return CellDraws(self.draw[rows], self.data[rows], None if self.source is None else self.source[rows])


def over_draws(values: ArrayLike, drawn: CellDraws) -> DrawMean:
    """The mean of one value per cell (cells,). Cells without a value are left out."""
    return over_pairs(values, drawn, drawn)


def over_pairs(values: ArrayLike, first: CellDraws, second: CellDraws) -> DrawMean:
    """The mean of one value per pair of cells (pairs,). The jackknife leaves out a draw with all its pairs."""
    numbers = np.asarray(values, float)
    known = ~np.isnan(numbers)
    first, second = first.take(known), second.take(known)
    numbers, a, b = numbers[known], first.draw, second.draw
    if not len(numbers):
        return DrawMean(NAN, NAN, NAN, NAN, 0)
    draws, positions = np.unique(np.concatenate([a, b]), return_inverse=True)
    a, b = positions[: len(a)], positions[len(a) :]
    data = np.zeros(len(draws), dtype=np.int64)
    data[a], data[b] = first.data, second.data
    mean = float(numbers.mean())
    left = _without(numbers, np.array([a, b]), np.array([first.data, second.data]), len(draws))
    nested = False  # whether larger draws contain smaller ones from the same source
    if first.source is not None and second.source is not None:
        of_data = {*zip(first.source, first.data, strict=True), *zip(second.source, second.data, strict=True)}
        nested = len(of_data) > len({source for source, _ in of_data})
    if np.isnan(left).any() or nested:
        return DrawMean(mean, NAN, NAN, NAN, len(draws))
    error = jackknife(left, data)
    half = float(stats.t.ppf(0.975, len(draws) - len(np.unique(data)))) * error
    return DrawMean(mean, error, mean - half, mean + half, len(draws))


def without_interval(mean: DrawMean) -> DrawMean:
    """The mean without error and interval."""
    return replace(mean, error=NAN, low=NAN, high=NAN)


def jackknife(left: NDArray[np.float64], data: Labels) -> float:
    """The standard error of a statistic. `left` (draws,) has the value without each draw, `data` its data set."""
    variance = 0.0
    for group in np.unique(data):
        own = left[data == group]
        variance += (len(own) - 1) / len(own) * float(((own - own.mean()) ** 2).sum())
    return float(np.sqrt(variance))


def _without(values: NDArray[np.float64], draw: Labels, data: Labels, draws: int) -> NDArray[np.float64]:
    """The mean without each draw (draws,); NaN if some data have no pair left. `draw` and `data` are (2, pairs).

    Each combination of data sets keeps its weight, since only draws are random. Otherwise errors would be too small.
    """
    low, high = np.sort(data, axis=0)
    kind = np.unique(low * (data.max() + 1) + high, return_inverse=True)[1]
    whole_sums, whole_counts = np.bincount(kind, values), np.bincount(kind)
    means = np.zeros(draws)
    for number, count in enumerate(whole_counts):
        a, b = draw[:, kind == number]
        own = values[kind == number]
        sums, counts = (_in_group(weights, a, b, draws) for weights in (own, np.ones(len(own))))
        left = count - counts
        means += count * np.divide(whole_sums[number] - sums, left, out=np.full(draws, NAN), where=left > 0)
    return means / len(values)


def _in_group(weights: NDArray[Any], a: Labels, b: Labels, groups: int) -> NDArray[np.float64]:
    """For each draw, the summed weights of the pairs that contain it. A pair within one draw counts once."""
    both = np.bincount(a, weights, groups) + np.bincount(b, weights, groups)
    return np.asarray(both - np.bincount(a[a == b], weights[a == b], groups))


# Mean outcomes of the searches of one panel, over the same calibration draws.

REFERENCE = "exhaustive"


def rivals(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells without the exhaustive search, which few settings have; all cells if there is no other search."""
    competing = cells[cells["algo"] != REFERENCE]
    return competing if len(competing) else cells


def compared(panel: pd.DataFrame, outcomes: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """The cells of settings that every search of the panel finished, and a note if some settings are omitted.

    A setting is left out if a search has no cell in it, or has one without an outcome (of `outcomes`) that
    other cells of the search have. If no setting is complete, all cells are used, and the note says so.
    """
    panel = rivals(panel)
    setting = labels(panel, SETTING)
    having = pd.Series(True, panel.index)
    for outcome in outcomes:
        known = panel[outcome].notna()
        having &= known | ~known.groupby(panel["algo"]).transform("any")
    counted = panel["algo"].where(having).groupby(setting).transform("nunique")
    whole = having & (counted == panel["algo"].nunique())
    if not whole.any():
        return panel, "unequal draws"
    kept, total = len(set(setting[whole])), len(set(setting))
    return panel[whole], "" if kept == total else f"{kept} of {total} draws"


def means(panel: pd.DataFrame, outcomes: list[str]) -> pd.DataFrame:
    """One row for each search: its cells and draws, means of the outcomes, and the found `masks`, sorted by draw."""
    cells, note = compared(panel, outcomes)
    rows = []
    for algo, searched in groups(cells, "algo"):
        order = searched.sort_values(["calibration", "draw"])
        masks = tuple(zip(order["calibration"], order["draw"], order["dropped"], strict=True))
        draws = len(set(labels(searched, DRAW)))
        rows.append(
            [algo, len(searched), draws, *(searched[outcome].mean() for outcome in outcomes), masks, note]
        )
    return pd.DataFrame(rows, columns=["algo", "cells", "draws", *outcomes, "masks", "draws_note"])
