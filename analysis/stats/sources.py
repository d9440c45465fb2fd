"""The sources of variation of a study: what their levels are, and what may be exchanged if one has no effect."""

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
class Source:
    """One source. Where it has no effect, the labels `moved` may be shuffled over `units` within `blocks`.

    `columns` make its levels; `given` are the groups of columns that are fitted before it in its test. An
    empty `moved` means that no labels are exchangeable, and residuals are permuted instead.
    """

    name: str
    columns: tuple[str, ...]
    given: tuple[tuple[str, ...], ...]
    moved: str = ""
    units: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


def _nested() -> list[Source]:
    """The calibration from the outside in: objective, its data, how many samples, how long.

    Whole settings are exchanged, with all their algorithms and ratios: as plots of a split-plot design.
    """
    names = ("objective", "calibration data", "samples", "length")
    sources = []
    for i, (name, column) in enumerate(zip(names, CONFIGURATION, strict=True)):
        parents = tuple(CONFIGURATION[:i])
        given = (parents, ("algo",)) if parents else (("algo",),)
        sources.append(Source(name, (*parents, column), given, column, tuple(SETTING), parents))
    return sources


_CELL, _PANEL = (*STRATUM, *SETTING, "algo"), (*CONFIGURATION, "algo")
SOURCES = (
    *_nested(),
    Source(DRAWN, tuple(SETTING), (_PANEL,), "draw", _CELL, (*STRATUM, *_PANEL)),
    Source("algorithm", ("algo",), (tuple(SETTING),), "algo", _CELL, (*STRATUM, *SETTING)),
    Source("objective x algorithm", ("objective", "algo"), (tuple(SETTING), ("algo",))),
)
CALIBRATION = ("objective", "calibration data", "samples", "length", DRAWN)
SEARCH = ("algorithm",)
INTERACTION = ("objective x algorithm", RESIDUAL)


def strata(frame: pd.DataFrame, by: Sequence[str] = STRATUM) -> list[Rows]:
    """The rows of each stratum."""
    stratum = labels(frame, by)
    return [np.flatnonzero(stratum == level) for level in np.unique(stratum)]


def fitted(part: pd.DataFrame, groups: Sequence[Sequence[str]]) -> Matrix:
    """A basis of the mean and the levels of some groups of columns."""
    q = np.full((len(part), 1), len(part) ** -0.5)
    for group in groups:
        q = np.hstack([q, gram.basis(indicator(labels(part, group)), q)])
    return q


def sequential(part: pd.DataFrame) -> dict[str, Matrix]:
    """For one stratum, a basis of what each source adds to those before it; the residual is the rest."""
    q = fitted(part, ())
    bases = {}
    for source in SOURCES:
        bases[source.name] = gram.basis(indicator(labels(part, source.columns)), q)
        q = np.hstack([q, bases[source.name]])
    bases[RESIDUAL] = gram.basis(np.eye(len(part)), q)
    return bases


def marginal(part: pd.DataFrame, source: Source) -> Matrix:
    """A basis of what a source adds to all others that do not contain it (type II)."""
    others = [s.columns for s in SOURCES if not set(source.columns) <= set(s.columns)]
    return gram.basis(indicator(labels(part, source.columns)), fitted(part, others))


def adjusted(part: pd.DataFrame) -> dict[str, Matrix]:
    """The marginal bases of all sources of a stratum, and the residual's."""
    bases = {source.name: marginal(part, source) for source in SOURCES}
    q = fitted(part, [source.columns for source in SOURCES])
    return {**bases, RESIDUAL: gram.basis(np.eye(len(part)), q)}
