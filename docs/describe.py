"""Write the tables of pages that show the code, the archived studies or the benchmarks; `make describe` runs it.

python -m docs.describe       a test fails if a page is out of date
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from docs import (
    engine_tables,
    file_tables,
    published_tables,
    racing_tables,
    study_healing,
    study_outcomes,
    study_shares,
    study_stability,
    study_tables,
)
from docs.marked_tables import Tables, filled
from docs.study_archives import ROOT

RESULTS: Tables = {
    "shares": study_shares.shares,
    "searches": study_outcomes.searches,
    "outcomes": study_outcomes.outcomes,
    "draws": study_stability.draws,
    "after healing": study_healing.after_healing,
}
PAGES: Mapping[str, Tables] = {
    "algorithms.md": racing_tables.TABLES,
    "engine.md": engine_tables.TABLES,
    "published.md": published_tables.TABLES,
    "results.md": RESULTS,
    "results_folder.md": file_tables.TABLES,
    "study_tables.md": study_tables.TABLES,
}


def path(page: str) -> Path:
    """The file of a page."""
    return ROOT / "docs" / page


def main() -> None:
    """Write the pages."""
    for page, tables in PAGES.items():
        text = path(page).read_text(encoding="utf-8")
        path(page).write_text(filled(text, tables), encoding="utf-8")


if __name__ == "__main__":
    main()
