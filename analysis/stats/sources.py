"""The sources of variation of a study: their levels, and the labels that each permutation test may exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import gram
from .gram import Matrix
from .grid import CONFIGURATION, SETTING, STRATUM, indicator, labels

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


def fitted(part: pd.DataFrame, groups: Sequence[Sequence[str]]) -> Matrix:
    """A basis (n, df) of the mean and of the levels of each group of columns."""
    q = np.full((len(part), 1), len(part) ** -0.5)
    for group in groups:
        q = np.hstack([q, gram.basis(indicator(labels(part, group)), q)])
    return q


def sequential(part: pd.DataFrame) -> dict[str, Matrix]:
    """For one stratum, a basis of what each source adds to the sources before it, and of the residual."""
    q = fitted(part, ())
    bases = {}
    for source in SOURCES:
        bases[source.name] = gram.basis(indicator(labels(part, source.columns)), q)
        q = np.hstack([q, bases[source.name]])
    bases[RESIDUAL] = gram.basis(np.eye(len(part)), q)
    return bases


def marginal(part: pd.DataFrame, source: VarianceSource) -> Matrix:
    """An orthonormal basis of what a source explains beyond all sources that do not contain it (type II)."""
    others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
    return gram.basis(indicator(labels(part, source.columns)), fitted(part, others))


def adjusted(part: pd.DataFrame) -> dict[str, Matrix]:
    """The marginal bases of all sources of a stratum, and a basis of the residual."""
    bases = {source.name: marginal(part, source) for source in SOURCES}
    q = fitted(part, [source.columns for source in SOURCES])
    return {**bases, RESIDUAL: gram.basis(np.eye(len(part)), q)}
