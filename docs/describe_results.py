"""Write the tables in docs/results.md and docs/study_tables.md from the archived studies.

python -m docs.describe_results       `make describe` runs it; a test fails if a page is out of date
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from analysis.figures.style import number, ordered
from analysis.stats.frames import at
from docs import marked_tables, study_healing, study_shares, study_tables
from docs.study_archives import (
    ALL,
    MAIN,
    ROOT,
    factor,
    factor_of_other_draws,
    log_perplexity,
    overlap,
    study,
    table,
)

PAGE = ROOT / "docs" / "results.md"


def searches() -> str:
    """In how many draws each search found the best known mask, its mean regret in nats, and its cost."""
    regrets = study("study", MAIN).regrets
    rows = []
    for algo in ordered(regrets["algo"]):
        cells = regrets[regrets["algo"] == algo]
        found = [_regret(cells[cells["objective"] == objective]) for objective in MAIN]
        rows.append([algo, *found, f"{cells['asked'].astype(float).mean():,.0f}"])
    return table(["search", *MAIN, "losses asked for"], rows)


def _regret(cells: pd.DataFrame) -> str:
    best = int((cells["regret"] <= 1e-9).sum())
    return f"{best} of {len(cells)}, {cells['regret'].mean():.3f}"


def outcomes() -> str:
    """Held-out perplexity, also relative to that of divergence, and accuracy, by objective."""
    costs = study("study", ALL).costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity, accuracy = (at(costs, (kind, objective), "mean") for kind in ("ppl", "acc"))
        relative = "1" if objective == "divergence" else _against_divergence(objective)
        rows.append([objective, number(perplexity), relative, f"{-accuracy:.1f}"])
    return table(["pruned for", "perplexity", "relative to divergence", "accuracy, percent"], rows)


def _against_divergence(objective: str) -> str:
    """Perplexity relative to that of divergence, from means over searches.

    Objectives on text have the same draws and are paired; the margin has others.
    """
    logs = (
        log_perplexity(study("study", (one,))).mean(axis=1).to_numpy() for one in (objective, "divergence")
    )
    return (factor_of_other_draws if objective == "margin" else factor)(*logs)


def draws() -> str:
    """The overlap of the masks of two draws by number of samples."""
    rows = []
    for objective in ALL:
        known = [f"{mean:.2f}" for mean in by_size(objective)] or ["\N{EN DASH}"] * 3
        rows.append([objective, *known, overlap(study("study", (objective,)))])
    return table(["objective", "8 windows, 16 items", "32, 64", "128, 256", "32, 64, all searches"], rows)


def by_size(objective: str) -> list[float]:
    """The overlap of the masks of two draws for each number of samples; empty if it was not run."""
    sizes = study("study_sizes", MAIN).sizes
    return [float(mean) for mean in sizes.loc[sizes["objective"] == objective, "corrected"]]


TABLES: dict[str, Callable[[], str]] = {
    "shares": study_shares.shares,
    "searches": searches,
    "outcomes": outcomes,
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
