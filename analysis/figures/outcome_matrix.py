"""The upper part of figure 6: the mean of each outcome for each objective, coloured by how much worse it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap

from ..data.metrics import Metric, names
from ..stats import crossed, outcome_errors
from ..stats.grid import STRATUM
from .legends import shade_key
from .style import DASH, GREY, SMALL, number

# How much worse than the best objective: bounds in standard errors of the difference, and a shade for each step.
BOUNDS = (0.0, 1.0, 2.0, 3.0, np.inf)
SHADES = ("#F3F6FA", "#CBDDEF", "#93BEE0", "#5A9BCF")
WORDS = ("under 1 SE", "1 to 2 SE", "2 to 3 SE", "3 SE or more")
KINDS = {"ppl": "perplexity", "acc": "accuracy, %"}


def outcomes(cells: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Every measured perplexity and accuracy; accuracies are negated, so that lower is better."""
    by_name = {}
    for kind in ("ppl", "acc"):
        for name in names(cells, kind):
            values = Metric(kind, (name,)).of(cells)
            by_name[name] = values if kind == "ppl" else -values
    return by_name


def matrix_of(cells: pd.DataFrame) -> pd.DataFrame:
    """The mean of every outcome for each objective, and its distance from the best in standard errors.

    See `crossed.matrix` and `outcome_errors.differences`.
    """
    measured, perplexities = outcomes(cells), names(cells, "ppl")
    matrix = crossed.matrix(cells, measured, perplexities)
    errors = outcome_errors.differences(cells, measured, frozenset(perplexities))
    return matrix.merge(errors, on=[*STRATUM, "objective", "outcome"], how="left")


def draw_matrix(
    axes: Axes, stratum: pd.DataFrame, objectives: Sequence[str], shown: Sequence[str], named: bool
) -> None:
    """A row for each objective, a column for each outcome, and a last column with the number of draws."""
    means, worse = (
        stratum.pivot(index="objective", columns="outcome", values=values).reindex([*objectives])[[*shown]]
        for values in ("mean", "worse")
    )
    shades = ListedColormap(list(SHADES), "worse").with_extremes(bad="white")
    steps = np.digitize(worse.to_numpy(float), BOUNDS[1:-1]).astype(float)
    steps[worse.isna().to_numpy()] = np.nan
    norm = BoundaryNorm(np.arange(len(SHADES) + 1) - 0.5, len(SHADES))
    axes.pcolormesh(np.ma.masked_invalid(steps), cmap=shades, norm=norm, edgecolors="white", linewidth=1.5)
    draws = stratum.groupby("objective")["draws"].max()
    for i, objective in enumerate(objectives):
        for j in range(len(shown)):
            value, best = means.to_numpy()[i, j], worse.to_numpy()[i, j] == 0
            text = DASH if np.isnan(value) else number(abs(value))
            _write(axes, j + 0.5, i + 0.5, text, weight="bold" if best else "normal")
        _write(axes, len(shown) + 0.3, i + 0.5, f"{draws.get(objective, 0):.0f}", color=GREY)
    axes.set(xlim=(0, len(shown) + 0.6), ylim=(len(objectives), 0))
    labels = [f"pruned for {objective}" for objective in objectives] if named else [""] * len(objectives)
    axes.set_yticks(np.arange(len(objectives)) + 0.5, labels, fontsize=SMALL + 0.5)
    _columns(axes, shown)


def _columns(axes: Axes, shown: Sequence[str]) -> None:
    """Name the columns above the matrix, and the kind of each group of columns."""
    labels = [name.partition("/")[2].replace("_", "\n") for name in shown]
    axes.set_xticks([*(np.arange(len(shown)) + 0.5), len(shown) + 0.3], [*labels, "n,\ndraws"])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    start = 0
    for kind, group in groupby(shown, key=lambda name: name.partition("/")[0]):
        width = len(list(group))
        at: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "annotation_clip": False,
        }
        middle = (start + width / 2, 1.0)
        axes.annotate(KINDS[kind], middle, (0, 25), ha="center", fontsize=SMALL, color=GREY, **at)
        start += width
    for side in axes.spines.values():
        side.set_visible(False)


def column_width(shown: Sequence[str]) -> float:
    """The width of a column in inches, so that no name touches the next."""
    words = [word for name in shown for word in name.partition("/")[2].split("_")]
    return max(0.5, 0.068 * max(map(len, words), default=0))


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, **style)


def keys() -> list[Artist]:
    """The key of the shades."""
    return [shade_key(word, colour) for word, colour in zip(WORDS, SHADES, strict=True)]
