"""Draw a figure or a table of a study, as PNG, PDF and CSV.

depth-pruning figure NAME [--results results] [--study NAME] ...     `figure NAME --help` lists the options
"""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from pruning.core.errors import unknown
from pruning.core.terminal import HELP, show

from .figures import names

FIGURES = {name.partition("_")[0]: f"figures.{name}:FIGURE" for name in names()}
FIGURES |= {f"table{number}": f"figures.outcome_tables:TABLE{number}" for number in (1, 2, 3)}


def main() -> None:
    """Draw the figure that the first word names. Raises InputError if there is none of that name."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in HELP:
        show(f"{__doc__}\nNAME is one of: {', '.join(FIGURES)}")
        return
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    sys.argv = [f"{sys.argv[0]} {name}", *words]
    resolve_name(f"{__package__}.{FIGURES[name]}")()
