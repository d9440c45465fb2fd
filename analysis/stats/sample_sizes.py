"""How masks and outcomes change with the number of calibration samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from . import overlap_pairs
from .frames import groups
from .grid import STRATUM

# Cells with equal values in these columns can differ in the number of samples.
FAMILY = ["objective", *STRATUM, "calibration", "length", "protect_first", "protect_last"]
SEARCH = ["algo", "draw", "seed"]


def by_size(
    cells: pd.DataFrame, outcomes: Mapping[str, pd.Series[Any]], geometric: Collection[str] = ()
) -> pd.DataFrame:
    """One row for each number of samples in a family of cells that has several.

    Only searches and draws with a cell at every number of samples count, so that rows differ in nothing else. A
    number of samples is left out if it has fewer than two draws in common with the larger part of the family.
    `corrected` is the mean chance-corrected overlap of the masks of two draws, with its 95 percent interval over
    draws (`low`, `high`). Each of the `outcomes`, one value per cell, has a column with its mean; those in
    `geometric` (perplexities) have the geometric mean. A mean is NaN if a cell lacks the outcome.
    """
    rows = []
    for where, family in groups(cells, FAMILY):
        for samples, part in groups(_at_every_size(family), "samples"):
            mean = overlap_pairs.mean(overlap_pairs.pairs(part, "draws"))
            row = dict(zip(FAMILY, where, strict=True)) | {"samples": int(samples), "cells": len(part)}
            row |= {
                "draws": part["draw"].nunique(),
                "corrected": mean.mean,
                "low": mean.low,
                "high": mean.high,
            }
            means = {
                name: _mean(values.loc[part.index], name in geometric) for name, values in outcomes.items()
            }
            rows.append(row | means)
    columns = [*FAMILY, "samples", "cells", "draws", "corrected", "low", "high", *outcomes]
    return pd.DataFrame(rows, columns=columns)


def _at_every_size(family: pd.DataFrame) -> pd.DataFrame:
    """The cells of searches and draws that have a cell at every number of samples; none if there is one number.

    Numbers of samples are taken from the one with most cells to the one with fewest.
    """
    keys = pd.Series(list(zip(*(family[name] for name in SEARCH), strict=True)), family.index)
    sizes, shared = list[float](), set(keys)
    for samples in family["samples"].value_counts().index:
        common = shared & set(keys[family["samples"] == samples])
        if len({draw for _, draw, _ in common}) > 1:
            sizes, shared = [*sizes, samples], common
    return family[family["samples"].isin(sizes) & keys.isin(shared) & (len(sizes) > 1)]


def _mean(values: pd.Series[Any], geometric: bool) -> float:
    numbers = values.to_numpy(float)
    return float(np.exp(np.log(numbers).mean()) if geometric else numbers.mean())
