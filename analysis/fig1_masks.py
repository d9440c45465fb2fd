"""Figure 1: which blocks each search removed. One panel for each model, objective and k.

python -m analysis.fig1_masks --results results --study demo

Source: figure 1 of arXiv 2604.24938. Added to it: what each mask costs on held-out data, beside its row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from analysis.figure import COLOURS, arguments, save
from analysis.load import describe, load

_DENSE = ("model", "dense/ppl/heldout", "dense/acc/heldout")
ROW, HEAD = 0.27, 0.85  # inches: a mask, and what a panel needs beside its masks


def draw(frame: pd.DataFrame, title: str) -> Figure:
    """Panels: a row for each model and objective, a column for each k; in a panel a line a mask."""
    done = frame[frame["status"] == "done"]
    rows = list(dict.fromkeys(zip(done["model"], done["objective"], strict=True)))
    columns = sorted(done["k"].unique())
    most = int(done.groupby(["model", "objective", "k"]).size().max())
    size = (0.6 + 5.8 * len(columns), 0.7 + len(rows) * (HEAD + ROW * most))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=8, color="0.35")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    objectives = list(dict.fromkeys(done["objective"]))
    for i, (model, objective) in enumerate(rows):
        for j, k in enumerate(columns):
            cells = done[(done["model"] == model) & (done["objective"] == objective) & (done["k"] == k)]
            colour = COLOURS[objectives.index(objective) % len(COLOURS)]
            _panel(
                grid[i, j],
                cells,
                colour,
                f"{model} · {objective} · {int(k)} block{'s' if k > 1 else ''} removed",
            )
    figure.supxlabel(_dense(done), fontsize=8, color="0.35")
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, colour: str, title: str) -> None:
    axes.set_title(title, loc="left")
    if cells.empty:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no finished cell", ha="center", va="center", color="0.5")
        return
    n_blocks = int(cells["n_blocks"].iloc[0])
    removed = np.zeros((len(cells), n_blocks))
    for line, dropped in enumerate(cells["dropped"]):
        removed[line, list(dropped)] = 1
    axes.pcolormesh(removed, cmap=ListedColormap(["#F2F2F2", colour]), edgecolors="white", linewidth=1.2)
    axes.set(ylim=(len(cells), 0), xlabel="block")
    axes.set_xticks(np.arange(0, n_blocks, 2) + 0.5, [str(b) for b in range(0, n_blocks, 2)])
    axes.set_yticks(np.arange(len(cells)) + 0.5, _labels(cells))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for line, (_, cell) in enumerate(cells.iterrows()):
        axes.text(n_blocks + 0.3, line + 0.5, _cost(cell), va="center", fontsize=7.5, color="0.25")


def _labels(cells: pd.DataFrame) -> list[str]:
    """The search, and what else tells the lines of this panel apart."""
    names = cells["algo"].astype(str)
    for column in ("calibration", "seed"):
        if cells[column].nunique() > 1:
            names = names + f" {column[:4]} " + cells[column].astype(str)
    return list(names)


def _cost(cell: pd.Series[Any]) -> str:
    perplexity = cell["pruned/ppl/heldout"]
    shown = f"{perplexity:.1f}" if perplexity < 1000 else f"{perplexity:,.0f}"
    return f"ppl {shown}  acc {cell['pruned/acc/heldout']:.2f}"


def _dense(done: pd.DataFrame) -> str:
    """One sentence on the whole models, for the foot of the figure."""
    whole = done.drop_duplicates("model")
    costs = [f"{m} ppl {p:.1f}, acc {a:.2f}" for m, p, a in zip(*(whole[c] for c in _DENSE), strict=True)]
    return f"beside each mask: held-out perplexity and accuracy; nothing removed: {'; '.join(costs)}"


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: a line a cell with its mask and its cost, and the cells that are not there."""
    metrics = [name for name in frame if str(name).startswith(("dense/", "pruned/"))]
    drawn = frame[
        ["cell", "status", "model", "objective", "calibration", "algo", "k", "seed", "dropped", *metrics]
    ]
    masks = [" ".join(map(str, mask)) if isinstance(mask, tuple) else "" for mask in drawn["dropped"]]
    return drawn.assign(dropped=masks)


def main() -> None:
    """Draw the figure for a results folder."""
    given = arguments("Which blocks each search removed.")
    frame = load(given.results, given.study)
    save(draw(frame, describe(frame, given.study)), table(frame), given.out, "fig1_masks")


if __name__ == "__main__":
    main()
