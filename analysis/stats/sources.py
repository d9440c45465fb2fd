"""The sources of variation of a study: their levels, and the labels that each permutation test may exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .grid import CONFIGURATION, SETTING, STRATUM, labels
from .span import Addition, Spans

Rows = NDArray[np.int64]
DRAWN = "draw (seed)"
RESIDUAL = "draw x algorithm, rest"


@dataclass(frozen=True)
class VarianceSource:
    """One source of variation: the columns that define its levels, and how its test permutes.

    `columns` define its levels. `given` are the groups of columns that its test fits first. Under the null
    hypothesis, the labels in the column `moved` can be exchanged among units of the same block. The columns `units`
    define the units, and the columns `blocks` define the blocks. If `moved` is empty,
    no labels are exchangeable, and the test permutes residuals instead.
    """

    name: str
    columns: tuple[str, ...]
    given: tuple[tuple[str, ...], ...]
    moved: str = ""
    units: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()

    @property
    def apart(self) -> list[str]:
        """Columns that every group of `given` and the levels contain.

        Cells that differ in them share no level and no fitted value, so sums of squares can be computed apart.
        """
        every = [set(group) for group in (*self.given, self.columns)]
        return [column for column in self.columns if all(column in group for group in every)]


def _nested() -> list[VarianceSource]:
    """The nested sources of the calibration: objective, its data, number of samples, length.

    The tests exchange whole settings, like whole plots in a split-plot design. All algorithms and ratios of a setting
    stay together.
    """
    names = ("objective", "calibration data", "samples", "length")
    sources = []
    for i, (name, column) in enumerate(zip(names, CONFIGURATION, strict=True)):
        parents = tuple(CONFIGURATION[:i])
        given = (parents, ("algo",)) if parents else (("algo",),)
        sources.append(VarianceSource(name, (*parents, column), given, column, tuple(SETTING), parents))
    return sources


_CELL, _PANEL = (*STRATUM, *SETTING, "algo"), (*CONFIGURATION, "algo")
SOURCES = (
    *_nested(),
    VarianceSource(DRAWN, tuple(SETTING), (_PANEL,), "draw", _CELL, (*STRATUM, *_PANEL)),
    VarianceSource("algorithm", ("algo",), (tuple(SETTING),), "algo", _CELL, (*STRATUM, *SETTING)),
    VarianceSource("objective x algorithm", ("objective", "algo"), (tuple(SETTING), ("algo",))),
)
CALIBRATION = ("objective", "calibration data", "samples", "length", DRAWN)
SEARCH = ("algorithm",)
INTERACTION = ("objective x algorithm", RESIDUAL)


def strata(frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> list[Rows]:
    """The row numbers of each stratum."""
    stratum = labels(frame, by)
    return [np.flatnonzero(stratum == level) for level in np.unique(stratum)]


def sequential(spans: Spans) -> dict[str, Addition]:
    """For one stratum, what each source adds to the sources before it, and the residual."""
    before: list[tuple[str, ...]] = []
    added = {}
    for source in SOURCES:
        added[source.name] = spans.addition(source.columns, before)
        before.append(source.columns)
    return {**added, RESIDUAL: Addition(spans.whole, spans.of(before))}


def marginal(spans: Spans, source: VarianceSource) -> Addition:
    """What a source explains beyond all sources that do not contain it (type II)."""
    others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
    return spans.addition(source.columns, others)


def adjusted(spans: Spans) -> dict[str, Addition]:
    """What each source of a stratum explains beyond the others, and the residual."""
    every = {source.name: marginal(spans, source) for source in SOURCES}
    return {**every, RESIDUAL: Addition(spans.whole, spans.of([source.columns for source in SOURCES]))}
