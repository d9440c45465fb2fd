"""Draw a figure or a table of a study, as PNG, PDF and CSV.

depth-pruning figure NAME [--results results] [--study NAME] ...     `figure NAME --help` lists the options
depth-pruning figure all [--results results] [--study NAME] ...   every figure and table that it has data for
"""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from pruning.core.errors import unknown
from pruning.core.terminal import HELP

from .figures import names
from .figures.cli import StudyFigure, draw_all

FIGURES = {name.partition("_")[0]: f"figures.{name}:FIGURE" for name in names()}
FIGURES |= {f"table{number}": f"figures.outcome_tables:TABLE{number}" for number in (1, 2, 3)}
ALL = "all"


def main() -> None:
    """Draw the figure that the first word names. Raises InputError if there is none of that name."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in HELP:
        print(f"{__doc__}\nNAME is one of: {', '.join([*FIGURES, ALL])}")  # noqa: T201 - the command's output
        return
    if name not in (*FIGURES, ALL):
        raise unknown("figure", name, [*FIGURES, ALL])
    sys.argv = [f"{sys.argv[0]} {name}", *words]
    if name == ALL:
        draw_all([_found(known) for known in FIGURES])
    else:
        _found(name)()


def _found(name: str) -> StudyFigure:
    figure: StudyFigure = resolve_name(f"{__package__}.{FIGURES[name]}")
    return figure
