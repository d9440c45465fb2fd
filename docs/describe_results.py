"""Write the tables in docs/results.md and docs/study_tables.md from the archived studies.

python -m docs.describe_results       `make describe` runs it; a test fails if a page is out of date
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from analysis.figures.style import DASH
from analysis.stats.frames import each
from docs import marked_tables, study_healing, study_outcomes, study_shares, study_tables
from docs.study_archives import ALL, MAIN, ROOT, corrected, overlap, study, table

PAGE = ROOT / "docs" / "results.md"


def draws() -> str:
    """The overlap of the masks of two draws by number of samples."""
    rows = []
    for objective in ALL:
        known = [corrected(row) for row in each(_sizes(objective))] or [DASH] * 3
        rows.append([objective, *known, overlap(study("study", (objective,)))])
    return table(["objective", "8 windows, 16 items", "32, 64", "128, 256", "32, 64, all searches"], rows)


def by_size(objective: str) -> list[float]:
    """The overlap of the masks of two draws for each number of samples; empty if it was not run."""
    return list(_sizes(objective)["corrected"])


def _sizes(objective: str) -> pd.DataFrame:
    sizes = study("study_sizes", MAIN).sizes
    return sizes[sizes["objective"] == objective]


TABLES: dict[str, Callable[[], str]] = {
    "shares": study_shares.shares,
    "searches": study_outcomes.searches,
    "outcomes": study_outcomes.outcomes,
    "draws": draws,
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
