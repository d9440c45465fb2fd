"""The tables that stand between two marks of a page; `make describe` writes them again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

Tables = Mapping[str, Callable[[], str]]  # what computes each table of a page, by the name in the mark
BLOCK = re.compile(r"<!-- (?P<name>[^>]+): written by make describe -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, tables: Tables) -> str:
    """The text of a page with its marked tables computed again. Raises KeyError for a mark of no known table."""
    return BLOCK.sub(
        lambda m: f"<!-- {m['name']}: written by make describe -->\n{tables[m['name']]()}\n<!-- end -->", page
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))
