"""The page on published masks lists the files of today, and every verdict that the code can give."""

from __future__ import annotations

from docs.described import path
from pruning.published import library
from pruning.published.explain import VERDICTS


def test_the_page_names_every_paper() -> None:
    page = path("published.md").read_text(encoding="utf-8")
    for entry in library.entries():
        assert f"`{entry.paper}`" in page


def test_the_page_explains_every_verdict() -> None:
    page = path("published.md").read_text(encoding="utf-8")
    for verdict in VERDICTS.keys() - {"stand-in"}:
        assert f"| `{verdict}` |" in page
