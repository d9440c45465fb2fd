"""The tables that `make describe` writes into pages are those of the code, the archives and the benchmarks."""

from __future__ import annotations

import pytest

from docs.described import BLOCK, PAGES, filled, path

SLOW = ("results.md", "study_tables.md")  # they are computed from archives


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p in SLOW else ()) for p in PAGES]
)
def test_a_page_has_its_tables_as_they_are_today(page: str) -> None:
    text = path(page).read_text(encoding="utf-8")
    assert {match["name"] for match in BLOCK.finditer(text)} == set(PAGES[page])
    assert filled(text, PAGES[page]) == text, f"{page} is out of date: run `make describe`"


def test_no_other_page_has_a_mark() -> None:
    marked = {page.name for page in path("").glob("*.md") if BLOCK.search(page.read_text(encoding="utf-8"))}
    assert marked == set(PAGES)
