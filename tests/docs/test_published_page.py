"""The page on published masks lists the files of today, and every verdict that the code can give."""

from __future__ import annotations

from docs.describe_published import PAGE, filled
from pruning.published import library
from pruning.published.explain import VERDICTS


def test_the_table_of_entries_is_that_of_the_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "the page is out of date: run `make describe`"
    for entry in library.entries():
        assert f"`{entry.paper}`" in page


def test_the_page_explains_every_verdict() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for verdict in VERDICTS.keys() - {"stand-in"}:
        assert f"| `{verdict}` |" in page
