"""Write the tables in docs/results.md and docs/study_tables.md from the archived studies.

python -m docs.describe_results       `make describe` runs it; a test fails if a page is out of date
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docs import marked_tables, study_healing, study_outcomes, study_shares, study_stability, study_tables
from docs.study_archives import ROOT

PAGE = ROOT / "docs" / "results.md"


TABLES: dict[str, Callable[[], str]] = {
    "shares": study_shares.shares,
    "searches": study_outcomes.searches,
    "outcomes": study_outcomes.outcomes,
    "draws": study_stability.draws,
    "after healing": study_healing.after_healing,
}
PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {PAGE: TABLES, study_tables.PAGE: study_tables.TABLES}


def filled(page: Path) -> str:
    """The text of a page with its tables computed again. If a mark names an unknown table, raises KeyError."""
    return marked_tables.filled(page.read_text(encoding="utf-8"), lambda name: PAGES[page][name]())


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
