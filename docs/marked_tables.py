"""Write again what stands between two marks of a page; `make describe` does so for every page with marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

BLOCK = re.compile(r"<!-- (?P<name>[^>]+): written by make describe -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, table: Callable[[str], str]) -> str:
    """The page with every marked table written again: `table` gets the name in the mark."""
    return BLOCK.sub(
        lambda m: f"<!-- {m['name']}: written by make describe -->\n{table(m['name'])}\n<!-- end -->", page
    )


def write(page: Path, table: Callable[[str], str]) -> None:
    """Write every marked table of a page again, in place."""
    page.write_text(filled(page.read_text(encoding="utf-8"), table), encoding="utf-8")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))
