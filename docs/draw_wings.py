"""Draw docs/images/wings.png, the picture of docs/architecture.md, from the imports of the code.

python -m docs.draw_wings       needs the development packages; `make wings` runs it

The layers are those of the import-linter's contract in pyproject.toml. The arrows are the imports between packages.
An import has no arrow if a longer path of imports leads to the same package. The words are the first sentences of the
packages' docstrings. The same facts are stored in the picture's metadata, so that a test can detect a picture that is
out of date.
"""

from __future__ import annotations

import ast
import json
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import grimp
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "wings.png"
TOTAL, HEIGHT, GAP = 10.0, 0.62, 0.26  # width of a row, height of a box, space between boxes, in inches
FILL, EDGE, INK, GREY, LINE = "#eef3fa", "#4a6fa5", "#1c2733", "#45525f", "#8497ad"


def main() -> None:
    """Draw the picture."""
    content = facts()
    draw(content).savefig(PICTURE, metadata={"Software": None, "facts": json.dumps(content)})


def recorded(picture: Path = PICTURE) -> dict[str, Any]:
    """The facts that a picture was drawn from."""
    from PIL import Image

    with Image.open(picture) as image:
        content: dict[str, Any] = json.loads(image.info["facts"])
    return content


def facts() -> dict[str, Any]:
    """The layers from top to bottom, the purpose of each package, and the arrows between packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (found,) = [
        c["layers"] for c in contracts if c["type"] == "layers" and c.get("containers") == ["pruning"]
    ]
    packages = [
        [name for name in layer.split(" | ") if (ROOT / "pruning" / name).is_dir()] for layer in found
    ]
    layers = [layer for layer in packages if layer]
    names = [name for layer in layers for name in layer]
    return {"layers": layers, "purposes": {name: _purpose(name) for name in names}, "arrows": _arrows(names)}


def _purpose(name: str) -> str:
    """The first sentence of a package's docstring."""
    text = (ROOT / "pruning" / name / "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(docstring.split()).split(". ")[0].rstrip(".")


def _arrows(names: list[str]) -> list[list[str]]:
    """Pairs (importer, imported) of packages. If a longer path of imports joins a pair, the pair is left out."""
    graph = grimp.build_graph("pruning")
    below: dict[str, set[str]] = {}
    for name in names:
        modules = {f"pruning.{name}", *graph.find_descendants(f"pruning.{name}")}
        imported = {m for module in modules for m in graph.find_modules_directly_imported_by(module)}
        below[name] = {m.split(".")[1] for m in imported if m.count(".")} & set(names) - {name}

    def reach(name: str) -> set[str]:
        """All packages that a package imports, directly or indirectly."""
        reached, waiting = set[str](), list(below[name])
        while waiting:
            reached.add(following := waiting.pop())
            waiting += below[following] - reached
        return reached

    far = {name: {deep for near in below[name] for deep in reach(near)} for name in names}
    return sorted([name, other] for name in names for other in below[name] - far[name])


def draw(content: dict[str, Any]) -> Figure:
    """Draw one row of boxes per layer, and arrows from each package to the packages that it imports."""
    layers = content["layers"]
    size = (TOTAL + 4 * GAP, len(layers) * (HEIGHT + GAP) + GAP)
    figure = Figure(figsize=size, dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]))
    axes.set_axis_off()
    boxes: dict[str, tuple[float, float, float]] = {}  # the centre (x, y) and the width of each box
    for row, layer in enumerate(reversed(layers)):
        width = min(TOTAL * 0.62, (TOTAL - (len(layer) - 1) * GAP) / len(layer))
        for column, name in enumerate(layer):
            x = size[0] / 2 + (column - (len(layer) - 1) / 2) * (width + GAP)
            boxes[name] = x, GAP + HEIGHT / 2 + row * (HEIGHT + GAP), width
    for name, other in content["arrows"]:
        _arrow(axes, boxes[name], boxes[other])
    shape = "round,pad=0,rounding_size=0.06"
    for name, (x, y, width) in boxes.items():
        corner = (x - width / 2, y - HEIGHT / 2)
        axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, shape, fc=FILL, ec=EDGE, lw=1, zorder=2))
        axes.text(x, y + 0.19, f"{name}/", ha="center", va="center", color=INK, fontsize=9.5, weight="bold")
        words = textwrap.fill(content["purposes"][name], int(width * 18), max_lines=3, placeholder=" ...")
        axes.text(x, y - 0.09, words, ha="center", va="center", color=GREY, fontsize=6.6)
    return figure


def _arrow(axes: Any, start: tuple[float, float, float], end: tuple[float, float, float]) -> None:
    """Draw an arrow: straight to the next row, or curved past the boxes to a lower row."""
    (x, y, width), (other_x, other_y, other_width) = start, end
    if y - other_y < 1.5 * (HEIGHT + GAP):
        points, style = ((x, y - HEIGHT / 2), (other_x, other_y + HEIGHT / 2)), "arc3"
    else:
        side = -1 if x < TOTAL / 2 else 1
        points = ((x + side * width / 2, y), (other_x + side * other_width / 2, other_y))
        bend = min(0.35, 2.0 / abs(y - other_y))  # a long arc must stay in the picture
        style = f"arc3,rad={-bend * side}"
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "color": LINE, "lw": 1.0, "zorder": 1}
    axes.add_patch(FancyArrowPatch(*points, connectionstyle=style, **look))


if __name__ == "__main__":
    main()
