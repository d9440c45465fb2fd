"""Draw the pictures of the pages into docs/images; `make pictures` runs it.

python -m docs.draw_pictures [NAME ...]                     all pictures, or some of them
python -m docs.draw_pictures before_after FILE.json         the picture of README, from the numbers of a file

The figures of studies are drawn from the archives. Numbers that no archive holds are in files beside the pictures.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from analysis.data.load import Metric
from analysis.data.study import AskedStudy
from analysis.figures import fig5_variance_shares, fig9_units, style
from analysis.figures.cli import StudyFigure
from analysis.figures.style import GREY, INK, PAGE
from pruning.core.storage import read_json, write_bytes

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
ACCENT, PLAIN = "#37566F", "0.45"  # no colour of an objective
SHADES = 256  # colours of a picture: fewer bytes, and no difference that one sees


def main() -> None:
    """Draw the pictures that the words name; all of them without a word."""
    style.use_style()
    words = sys.argv[1:]
    if words[:1] == ["before_after"] and len(words) == 2:
        save("before_after", before_after(read_json(Path(words[1]))))
        return
    for name in words or PICTURES:
        save(name, PICTURES[name]())


def save(name: str, figure: Figure) -> None:
    """Write a picture as a PNG with few colours."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    image = (
        Image.open(stream).convert("RGB").quantize(SHADES, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    small = io.BytesIO()
    image.save(small, "png", optimize=True)
    write_bytes(IMAGES / f"{name}.png", small.getvalue())


# Figures of archived studies.


def of_study(figure: str, name: str, **only: list[str]) -> Figure:
    """A figure of the cells of an archived study that have some values."""
    entry: StudyFigure = import_module(f"analysis.figures.{figure}").FIGURE
    return entry.of(AskedStudy(archive(name), name, only))


def archive(name: str) -> str:
    """The archive of a study."""
    return str(ROOT / "analysis" / name / f"{name}.tar.xz")


TEXT, MAIN = ["perplexity", "divergence"], ["perplexity", "divergence", "margin"]
RATIO = "calibration : search"
COMPARED = (("smollm2", MAIN), ("smollm2", TEXT), ("gemma3_270m", MAIN), ("gemma3_270m", TEXT))


def ratios() -> Figure:
    """A forest plot of calibration : search, for the objectives on text and with the margin."""
    found = {}
    for model, objectives in COMPARED:
        only = {"model": [model], "objective": objectives}
        shares = fig5_variance_shares.shares_of(AskedStudy(archive("study"), "study", only))[0]
        known = fig5_variance_shares.ratios(shares).items()
        group = f"{style.named(model)}: {', '.join(objectives)}"
        found[group] = {outcome: every[RATIO] for outcome, every in known if RATIO in every}
    return fig5_variance_shares.draw(found, "Calibration : search, in masks and in what they cost")


def units() -> Figure:
    """Sub-layers against blocks, from the numbers of docs/images/units.csv."""
    return fig9_units.draw(pd.read_csv(IMAGES / "units.csv"), Metric("ppl", ("ppl/heldout",)))


# What a smaller model has, before and after.


def before_after(numbers: dict[str, Any]) -> Figure:
    """The blocks of a model in each state, with gaps where blocks are removed, and what each state measures."""
    states: dict[str, dict[str, float]] = numbers["states"]
    figure = Figure(figsize=(PAGE, 0.62 + 0.34 * len(states)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(0.62 + 0.34 * len(states), 0))
    axes.set_axis_off()
    left, width, columns = 1.6, 2.75, (5.0, 5.85, 6.9)
    heads = (f"perplexity\non {numbers['text']}", "size,\nMB", "tokens per\nsecond, CPU")
    axes.text(0.05, 0.3, numbers["model"], fontsize=9, weight="bold", color=INK, va="center")
    for x, words in zip(columns, heads, strict=True):
        axes.text(x, 0.3, words, ha="right", va="center", color=GREY, linespacing=1.2)
    step = width / numbers["blocks"]
    for row, (name, measured) in enumerate(states.items()):
        y, first, last = 0.75 + 0.34 * row, row == 0, row == len(states) - 1
        axes.text(0.05, y, name, va="center", fontsize=8, color=INK, weight="bold" if last else "normal")
        for block in range(numbers["blocks"]):
            gone = not first and block in numbers["removed"]
            look: dict[str, Any] = (
                {"fc": "white", "ec": "0.75", "ls": ":"} if gone else {"fc": ACCENT, "ec": "white"}
            )
            axes.add_patch(
                FancyBboxPatch(
                    (left + block * step, y - 0.1), step * 0.86, 0.2, "square,pad=0", lw=0.6, **look
                )
            )
        for x, key in zip(columns, ("perplexity", "megabytes", "tokens_per_second"), strict=True):
            words = f"{measured[key]:.1f}" if key == "perplexity" else f"{measured[key]:.0f}"
            axes.text(
                x,
                y,
                words,
                ha="right",
                va="center",
                fontsize=8,
                color=INK,
                weight="bold" if last else "normal",
            )
    return figure


# The way of the data through the program.

WAY = (  # heading, words, packages, x and y of the centre
    ("model", "its blocks, loaded\nwithout change", "models", 0.6, 0.48),
    ("samples", "windows of text\nor items", "calibration", 2.02, 1.62),
    ("objective", "the loss of a mask\non the samples", "objective, engine", 2.02, 0.48),
    ("search", "asks for losses,\nchooses a mask", "algo, search", 3.56, 0.48),
    ("mask", "blocks to remove,\nand how sure it is", "search, runs", 4.98, 0.48),
    ("measure", "perplexity, tasks,\nspeed on other data", "evaluation", 6.38, 0.48),
    ("repair, train", "linear maps, some\nminutes of training", "healing", 4.98, 1.62),
    ("export", "a smaller model\nthat loads like it", "export", 6.38, 1.62),
)
ARROWS = (
    ("model", "objective", ""),
    ("samples", "objective", ""),
    ("objective", "search", "losses"),
    ("search", "objective", "masks"),
    ("search", "mask", ""),
    ("mask", "measure", ""),
    ("mask", "repair, train", ""),
    ("repair, train", "measure", ""),
    ("repair, train", "export", ""),
)
CORE = ("objective", "search", "mask")
BOX = (1.12, 0.78)


def data_way() -> Figure:
    """Boxes for what the program makes of a model and samples, with arrows, and the packages that do it."""
    height = 2.1
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(height, 0))
    axes.set_axis_off()
    at = {name: (x, y) for name, _, _, x, y in WAY}
    for start, end, words in ARROWS:
        _arrow(axes, at[start], at[end], words, both=(end, start) in {(a, b) for a, b, _ in ARROWS})
    for name, words, packages, x, y in WAY:
        hue = ACCENT if name in CORE else PLAIN
        middle: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3}
        corner = (x - BOX[0] / 2, y - BOX[1] / 2)
        shape = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch(corner, *BOX, shape, fc="white", ec=hue, lw=1.2, zorder=2))
        axes.text(x, y - 0.25, name, weight="bold", fontsize=8.5, color=hue, **middle)
        axes.text(x, y + 0.02, words, color=INK, linespacing=1.2, **middle)
        axes.text(x, y + 0.28, packages, color=GREY, style="italic", **middle)
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], words: str, both: bool) -> None:
    """An arrow from the edge of a box to the edge of another, with words above it; beside its opposite if `both`."""
    (x, y), (other_x, other_y) = start, end
    shift = (0.12 if other_x > x else -0.12) if both else 0.0
    run, rise = other_x - x, other_y - y
    scale = min(BOX[0] / 2 / abs(run) if run else 9, BOX[1] / 2 / abs(rise) if rise else 9)
    ends = [
        (x + scale * run, y + scale * rise - shift),
        (other_x - scale * run, other_y - scale * rise - shift),
    ]
    axes.annotate(
        "",
        ends[1],
        ends[0],
        arrowprops={"arrowstyle": "-|>", "color": "0.45", "lw": 1, "shrinkA": 1, "shrinkB": 1},
    )
    if words:
        middle = ((ends[0][0] + ends[1][0]) / 2, ends[0][1] - (0.07 if shift > 0 else -0.09))
        axes.text(*middle, words, ha="center", va="center", color=GREY)


PICTURES: dict[str, Callable[[], Figure]] = {
    "before_after": lambda: before_after(read_json(IMAGES / "before_after.json")),
    "data_way": data_way,
    "changes": lambda: of_study("fig4_changes", "study", objective=MAIN),
    "asked": lambda: of_study("fig6_asked", "study", objective=MAIN),
    "ratios": ratios,
    "cost": lambda: of_study("fig7_cost", "study", model=["smollm2"]),
    "study_masks": lambda: of_study("fig1_masks", "study"),
    "healing": lambda: of_study("fig10_healing", "heal"),
    "units": units,
}


if __name__ == "__main__":
    main()
