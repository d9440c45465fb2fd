"""Write the tables in docs/results.md from the archived studies.

python -m docs.describe_results       `make describe` runs it; a test fails if the page is out of date
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.data.mlflow_store import folder
from analysis.figures.style import number, ordered
from analysis.figures.variance_shares import ratio_text
from analysis.report.phrasing import percent
from analysis.report.study_data import StudyData
from analysis.stats import overlap_pairs
from analysis.stats.estimates import IntervalEstimate
from analysis.stats.frames import at
from analysis.stats.window_pairs import paired
from docs import marked_tables

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
PAPER = ("perplexity", "margin")
OUTCOMES = ("masks (Jaccard distance)", "calibration loss", "held-out perplexity (log)", "accuracy")
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")
# Cells that are compared: in words, their objectives and searches (all if empty), and the outcomes that are shown.
COMPARED = (
    ("perplexity, divergence, margin", MAIN, (), OUTCOMES),
    ("perplexity, margin", PAPER, (), OUTCOMES[:1]),
    ("perplexity, divergence, block_influence", (*TEXT, "block_influence"), (), OUTCOMES[:1]),
    ("perplexity, divergence", TEXT, (), OUTCOMES[:1]),
    ("the same without one_shot, fast_block_select", TEXT, STRONG, OUTCOMES[:1]),
)


@cache
def study(name: str, objectives: tuple[str, ...], searches: tuple[str, ...] = ()) -> StudyData:
    """The cells of SmolLM2 in an archived study that have one of some objectives and searches."""
    only = {"objective": objectives, "model": ("smollm2",)} | ({"algo": searches} if searches else {})
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def shares() -> str:
    """Shares of variance and their ratios, for the cells of each comparison."""
    rows = []
    for words, objectives, algos, outcomes in COMPARED:
        found = dict(zip(OUTCOMES, study("study", objectives, algos).shares[0].values(), strict=True))
        for outcome in outcomes:
            own = found[outcome]
            parts = [_share(own.parts[name]) for name in ("calibration", "search")]
            named = words if outcome == outcomes[0] else ""
            ratios = [ratio_text(r) for r in (own.total_ratio, own.objective_ratio, own.objective_draw)]
            rows.append([named, outcome, *parts, *ratios])
    heads = ["calibration", "search", "calibration : search", "objective : search", "objective : draw"]
    return _table(["objectives", "outcome", *heads], rows)


def _share(estimate: IntervalEstimate) -> str:
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def searches() -> str:
    """In how many draws each search found the best known mask, its mean regret, and its cost."""
    regrets = study("study", MAIN).regrets
    rows = []
    for algo in ordered(regrets["algo"]):
        own = regrets[regrets["algo"] == algo]
        found = [_regret(own[own["objective"] == objective]) for objective in MAIN]
        rows.append([algo, *found, f"{own['asked'].astype(float).mean():,.0f}"])
    return _table(["search", *MAIN, "losses asked for"], rows)


def _regret(cells: pd.DataFrame) -> str:
    best = int((cells["regret"] <= 1e-9).sum())
    return f"{best} of {len(cells)}, {cells['regret'].mean():.3f}"


def gains() -> str:
    """Held-out perplexity of each search relative to one-shot, paired by draw."""
    searches = [algo for algo in ordered(study("study", MAIN).cells["algo"]) if algo != "one_shot"]
    logs = [log_perplexity(objective) for objective in MAIN]
    rows = [[algo, *(_gain(own, algo) for own in logs)] for algo in searches]
    return _table(["search", *MAIN], rows)


def log_perplexity(objective: str) -> pd.DataFrame:
    """The logarithm of held-out perplexity, one row for each draw and one column for each search."""
    own = study("study", (objective,))
    cells = own.cells.assign(log=np.log(own.metrics["ppl"].of(own.cells).astype(float)))
    return cells.pivot(index="draw", columns="algo", values="log")


def _gain(logs: pd.DataFrame, algo: str) -> str:
    both = logs[[algo, "one_shot"]].dropna()
    found = paired(both[algo].to_numpy(), both["one_shot"].to_numpy())
    return ratio([found.mean, found.low, found.high])


def ratio(logs: Sequence[float]) -> str:
    """A ratio with its interval, from logarithms."""
    value, low, high = (number(float(np.exp(log))) for log in logs)
    return f"{value} ({low} to {high})"


def outcomes() -> str:
    """Held-out perplexity, also relative to that of divergence, and accuracy, by objective."""
    costs = study("study", ALL).costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity, accuracy = (at(costs, (kind, objective), "mean") for kind in ("ppl", "acc"))
        relative = "1" if objective == "divergence" else ratio(against_divergence(objective))
        rows.append([objective, number(perplexity), relative, f"{-accuracy:.1f}"])
    return _table(["pruned for", "perplexity", "relative to divergence", "accuracy, percent"], rows)


def against_divergence(objective: str) -> list[float]:
    """The difference of mean log perplexities from those of divergence, with its interval over draws.

    Means are over searches. Objectives on text have the same draws and are paired; the margin has others (Welch).
    """
    own, base = (log_perplexity(name).mean(axis=1).to_numpy() for name in (objective, "divergence"))
    if objective == "margin":
        ends = stats.ttest_ind(own, base, equal_var=False).confidence_interval()
        return [float(own.mean() - base.mean()), float(ends.low), float(ends.high)]
    found = paired(own, base)
    return [found.mean, found.low, found.high]


def draws() -> str:
    """The overlap of the masks of two draws by number of samples."""
    rows = []
    for objective in ALL:
        known = [f"{overlap:.2f}" for overlap in by_size(objective)] or ["\N{EN DASH}"] * 3
        rows.append([objective, *known, _overlap(objective)])
    return _table(["objective", "8 windows, 16 items", "32, 64", "128, 256", "32, 64, all searches"], rows)


def by_size(objective: str) -> list[float]:
    """The overlap of the masks of two draws for each number of samples; empty if it was not run."""
    sizes = study("study_sizes", MAIN).sizes
    return [float(overlap) for overlap in sizes.loc[sizes["objective"] == objective, "corrected"]]


def _overlap(objective: str) -> str:
    mean = overlap_pairs.mean(overlap_pairs.pairs(study("study", (objective,)).cells, "draws"))
    return f"{mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})"


TABLES: dict[str, Callable[[], str]] = {
    "shares": shares,
    "searches": searches,
    "gains": gains,
    "outcomes": outcomes,
    "draws": draws,
}


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


def filled(page: str) -> str:
    """The page with its tables computed again. If a mark names an unknown table, raises KeyError."""
    return marked_tables.filled(page, lambda name: TABLES[name]())


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
