"""Tables drawn as figures for print, with rules, right-aligned numbers and groups of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .style import DASH, GREY, LARGE, SMALL, factor, number, wrapped

ROW, TOP, FOOT = 0.19, 0.42, 0.3  # heights in inches
SIZE = 7.5
TIMES = "\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}"  # between a geometric mean and its factor


@dataclass(frozen=True)
class Line:
    """One line of a table: its name, its values, and whether the line is a heading. A heading starts a group."""

    name: str
    values: Sequence[str]
    heading: bool = False


@dataclass(frozen=True)
class _Sheet:
    """A figure in which positions are given in inches from the left and in rows from the top."""

    figure: Figure
    width: float
    height: float
    above: float

    def y(self, row: float) -> float:
        return 1 - (self.above + ROW * row) / self.height

    def text(self, x: float, row: float, text: str, **style: Any) -> None:
        style = {"fontsize": SIZE, "va": "center", **style}
        self.figure.text(x / self.width, self.y(row), text, **style)

    def rule(self, row: float, weight: float, start: float = 0.05, end: float | None = None) -> None:
        x = [start / self.width, (self.width - 0.05 if end is None else end) / self.width]
        self.figure.add_artist(Line2D(x, [self.y(row)] * 2, color="black", lw=weight))


def table(
    columns: Sequence[tuple[str, str]], lines: Sequence[Line], title: str, note: str, width: float = 0.95
) -> Figure:
    """Draw a table. Columns have an upper and a lower heading. Equal upper headings are joined if adjacent."""
    first = 0.12 + 0.068 * max(len(line.name) for line in lines)
    total = first + width * len(columns) + 0.1
    title, note = wrapped(title, int(total * 15)), wrapped(note, int(total * 17), "; ")
    above = TOP + 0.13 * title.count("\n")
    height = above + ROW * (len(lines) + 2) + FOOT + 0.12 * note.count("\n")
    sheet = _Sheet(Figure(figsize=(total, height)), total, height, above)
    place: dict[str, Any] = {"ha": "left", "va": "top"}
    sheet.figure.text(0.05 / total, 1 - 0.1 / height, title, fontsize=SMALL + 0.5, color=GREY, **place)
    rights = [first + width * (i + 1) for i in range(len(columns))]
    _headings(sheet, columns, rights, width)
    _body(sheet, lines, rights)
    sheet.text(0.05, len(lines) + 2.3, note, fontsize=SMALL, color=GREY, va="top")
    return sheet.figure


def _headings(
    sheet: _Sheet, columns: Sequence[tuple[str, str]], rights: Sequence[float], width: float
) -> None:
    sheet.rule(-0.2, 1.2)
    for start, end in _spans([upper for upper, _ in columns]):
        left, right = rights[start] - width, rights[end - 1]
        if columns[start][0]:
            sheet.text((left + right) / 2 + 0.05, 0.4, columns[start][0], ha="center")
            sheet.rule(0.85, 0.5, left + 0.12, right)
    for right, (_, lower) in zip(rights, columns, strict=True):
        sheet.text(right, 1.35, lower, ha="right", color=GREY)
    sheet.rule(1.85, 0.7)


def _body(sheet: _Sheet, lines: Sequence[Line], rights: Sequence[float]) -> None:
    for row, line in enumerate(lines, start=2):
        if line.heading and row > 2:
            sheet.rule(row - 0.08, 0.3)
        style = "italic" if line.heading else "normal"
        sheet.text(0.08 if line.heading else 0.16, row + 0.42, line.name, style=style)
        for right, value in zip(rights, line.values, strict=False):
            sheet.text(right, row + 0.42, value, ha="right")
    sheet.rule(len(lines) + 2.0, 1.2)


def _spans(names: Sequence[str]) -> list[tuple[int, int]]:
    """The start of each run of equal adjacent names, and its end (exclusive)."""
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    return list(zip(starts, [*starts[1:], len(names)], strict=True))


def spread(mean: float, sd: float, count: int, asked: int, digits: int) -> str:
    """Mean and sd as text: `53.2 ± 1.1`.

    If some cells are missing, `(5/6)` follows. If all are missing, a dash replaces the numbers.
    """
    shown = [number(v) if abs(v) >= LARGE else f"{v:,.{digits}f}" for v in (mean, sd)]
    return _counted(" ± ".join(shown) if count > 1 else shown[0], count, asked)


def times(mean: float, sd: float, count: int, asked: int) -> str:
    """Geometric mean and geometric sd as text, with the sign "times or divided by" between (Limpert et al. 2001).

    Missing cells are shown as by `spread`.
    """
    text = number(mean)
    return _counted(f"{text} {TIMES} {factor(sd)}" if count > 1 else text, count, asked)


def _counted(text: str, count: int, asked: int) -> str:
    if not count:
        return f"{DASH} (0/{asked})" if asked else DASH
    return text if count == asked else f"{text} ({count}/{asked})"
