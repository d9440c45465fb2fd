"""Draw the pictures of the pages into docs/images; `make pictures` runs it.

python -m docs.draw_pictures [NAME ...]       all pictures, or those named

The figures of studies are drawn from the archives. Numbers that are in no archive are in files beside the pictures.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from analysis.data.load import Metric
from analysis.figures import fig5_variance_shares, fig9_units, style
from analysis.figures.cli import StudyFigure
from analysis.figures.style import GREY, INK, PAGE
from pruning.core.storage import read_json, write_bytes

from .described import BITS, MAIN, NAMES, QWEN, ROOT, SMOLLM2, TEXT, measured_ways, study

IMAGES = ROOT / "docs" / "images"
ACCENT = "#37566F"  # not the colour of an objective
SHADES = 256  # number of colours of a picture, for a small file; it looks the same as with all colours


def main() -> None:
    """Draw the pictures named by the arguments; without arguments, all pictures."""
    style.use_style()
    for name in sys.argv[1:] or PICTURES:
        save(name, PICTURES[name]())


def save(name: str, figure: Figure) -> None:
    """Write a picture as a PNG with few colours."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    image = Image.open(stream).convert("RGB")
    image = image.quantize(SHADES, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, "png", optimize=True)
    write_bytes(IMAGES / f"{name}.png", small.getvalue())


# Figures of archived studies.


def of_study(
    figure: str, name: str, objectives: tuple[str, ...] = (), model: str | None = None, title: str = ""
) -> Figure:
    """A figure of an archived study's cells with these objectives and this model; by default, of all."""
    entry: StudyFigure = import_module(f"analysis.figures.{figure}").FIGURE
    drawn = entry.of(study(name, objectives, model=model).asked).figure
    if title:
        drawn.texts[0].set_text(title)
    return drawn


RATIO = "calibration : search"


def ratios() -> Figure:
    """A forest plot of calibration : search, for the text objectives alone, and with the margin added."""
    found = {}
    for model, objectives in product(NAMES, (MAIN, TEXT)):
        known = fig5_variance_shares.ratios(study("study", objectives, model=model).shares).items()
        group = f"{style.named(model)}: {', '.join(style.objectives(objectives))}"
        found[group] = {outcome: every[RATIO] for outcome, every in known if RATIO in every}
    return fig5_variance_shares.draw(found, "Calibration : search, in masks and in what they cost")


def units() -> Figure:
    """Sub-layers against blocks, from the numbers of docs/images/units.csv."""
    return fig9_units.draw(pd.read_csv(IMAGES / "units.csv"), Metric("ppl", ("ppl/heldout",)))


# A model before and after pruning.


def before_after(numbers: dict[str, Any]) -> Figure:
    """A model's blocks in each state, with gaps for removed blocks, and the measurements of each state."""
    states: dict[str, dict[str, float]] = numbers["states"]
    height = 0.62 + 0.34 * len(states)
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(height, 0))
    axes.set_axis_off()
    left, step, columns = 1.6, 2.75 / numbers["blocks"], (5.0, 5.85, 6.9)
    heads = (f"perplexity\non {numbers['text']}", "size,\nMB", "tokens per\nsecond, CPU")
    axes.text(0.05, 0.3, numbers["model"], fontsize=8, weight="bold", color=INK, va="center")
    for x, words in zip(columns, heads, strict=True):
        axes.text(x, 0.3, words, ha="right", va="center", color=GREY, linespacing=1.2)
    for row, (name, measured) in enumerate(states.items()):
        y, weight = 0.75 + 0.34 * row, "bold" if row == len(states) - 1 else "normal"
        type_: dict[str, Any] = {"va": "center", "fontsize": 8, "color": INK, "weight": weight}
        axes.text(0.05, y, name, **type_)
        for block in range(numbers["blocks"]):
            gone = row > 0 and block in numbers["removed"]
            look: dict[str, Any] = (
                {"fc": "white", "ec": "0.75", "ls": ":"} if gone else {"fc": ACCENT, "ec": "white"}
            )
            corner = (left + block * step, y - 0.1)
            axes.add_patch(FancyBboxPatch(corner, step * 0.86, 0.2, "square,pad=0", lw=0.6, **look))
        for x, key, digits in zip(
            columns, ("perplexity", "megabytes", "tokens_per_second"), (1, 0, 0), strict=True
        ):
            axes.text(x, y, f"{measured[key]:.{digits}f}", ha="right", **type_)
    return figure


# Ways to a smaller model.

MARKS, ARROW = dict(zip(BITS, "os^D", strict=True)), {"arrowstyle": "->"}
HUES = {"dense": ("dense", INK)}
for share, hue in (("10", "#0072B2"), ("20", "#D55E00")):
    HUES[f"blocks-{share}-trained"] = f"without {share} % of the blocks, trained", hue


def when() -> Figure:
    """The novel's perplexity over size and over speed in llama.cpp: three models, each with four numbers of bits."""
    note = "Lower is better. Dotted: the dense model after the same training. Arrows: above 4,000. BF16: bfloat16."
    figure, panels = style.page(2, 2, 2.3, "Fewer blocks, fewer bits, or both", note)
    for model, (left, right) in ((SMOLLM2, panels[0]), (QWEN, panels[1])):
        rows, files = measured_ways(model)
        dense = rows["dense"]["metrics"]["ppl/novel"]
        for (source, (_, hue)), (bits, mark) in product(HUES.items(), MARKS.items()):
            file = files[f"{source}-{bits}"]
            perplexity = rows[source if bits == BITS[0] else f"{source}-{bits}"]["metrics"]["ppl/novel"]
            for axes, x in ((left, file["bytes"] / 1e6), (right, file["new_per_second"])):
                if perplexity < 2 * dense:
                    axes.plot(x, perplexity, mark, color=hue, ms=4.5)
                else:
                    axes.plot(x, dense, alpha=0)  # makes room for the arrow
                    axes.annotate(
                        "", (x, 1), (x, 0.85), ("data", "axes fraction"), arrowprops=ARROW | {"color": hue}
                    )
        for axes in (left, right):
            axes.axhline(rows["dense-trained"]["metrics"]["ppl/novel"], color=GREY, ls=":")
        left.set(xlabel="megabytes on disk", ylabel=f"{style.named(model)}: perplexity of the novel")
        right.set(xlabel="new tokens per second in llama.cpp")
    for words, hue in HUES.values():
        panels[0][0].plot([], [], "o", color=hue, ms=4.5, label=words)
    for bits, mark in MARKS.items():
        panels[0][1].plot([], [], mark, color=GREY, ms=4.5, label=bits)
    panels[0][0].legend(loc="upper right")
    panels[0][1].legend(loc="upper left")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "before_after": lambda: before_after(read_json(IMAGES / "before_after.json")),
    "changes": lambda: of_study("fig4_changes", "study", MAIN),
    "changes_losses": lambda: of_study("fig4_changes", "study_losses"),
    "losses": lambda: of_study("fig6_asked", "study_losses", title="Losses on the same questions"),
    "asked": lambda: of_study("fig6_asked", "study", MAIN),
    "ratios": ratios,
    "cost": lambda: of_study("fig7_cost", "study", model=SMOLLM2),
    "study_masks": lambda: of_study("fig1_masks", "study"),
    "healing": lambda: of_study("fig10_healing", "heal"),
    "units": units,
    "when": when,
}


if __name__ == "__main__":
    main()
