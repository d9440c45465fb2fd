"""Write the tables in docs/results.md from the archived studies.

python -m docs.describe_results       `make describe` runs it; a test fails if the page is out of date
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.data.mlflow_store import folder
from analysis.figures.style import number, ordered
from analysis.figures.variance_shares import ratio_text
from analysis.report.phrasing import percent
from analysis.report.study_data import StudyData
from analysis.stats import overlap_pairs
from analysis.stats.estimates import IntervalEstimate
from analysis.stats.frames import at
from analysis.stats.window_pairs import paired

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
BLOCK = r"<!-- {name}: written by make describe -->\n.*?<!-- end -->"
TEXT = ("divergence", "perplexity")
MAIN = (*TEXT, "margin")
ALL = ("block_influence", *MAIN)
PAPER = ("perplexity", "margin")
OUTCOMES = ("masks (Jaccard distance)", "calibration loss", "held-out perplexity (log)", "accuracy")
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")
# Cells that are compared: in words, their objectives and searches (all if empty), and the outcomes that are shown.
COMPARED = (
    ("all three objectives", MAIN, (), OUTCOMES),
    ("the paper's two", PAPER, (), OUTCOMES[:1]),
    ("without the margin", TEXT, (), OUTCOMES[::2]),
    ("the same, without one_shot and fast_block_select", TEXT, STRONG, OUTCOMES[:1]),
)


@cache
def study(name: str, objectives: tuple[str, ...], searches: tuple[str, ...] = ()) -> StudyData:
    """The cells of SmolLM2 in an archived study that have one of some objectives and searches."""
    only = {"objective": objectives, "model": ("smollm2",)} | ({"algo": searches} if searches else {})
    return StudyData(folder(ROOT / f"analysis/{name}/{name}.tar.xz"), name, only)


def shares() -> str:
    """Shares of variance, and their ratios: of the main comparison, and without the margin."""
    rows = []
    for words, objectives, algos, outcomes in COMPARED:
        found = dict(zip(OUTCOMES, study("study", objectives, algos).shares[0].values(), strict=True))
        for outcome in outcomes:
            own = found[outcome]
            parts = [_share(own.parts[name]) for name in ("calibration", "search")]
            rows.append([words, outcome, *parts, ratio_text(own.total_ratio), ratio_text(own.objective_draw)])
    heads = ["calibration", "search", "calibration : search", "objective : draw"]
    return _table(["cells", "outcome", *heads], rows)


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
    return f"{best} of {len(cells)}, {number(float(cells['regret_se'].mean()))}"


def gains() -> str:
    """What beam search is worth in held-out outcomes against one-shot, paired on the same draws."""
    rows = []
    for objective in MAIN:
        own = study("study", (objective,))
        means, differences = [], []
        for kind in ("ppl", "acc"):
            values = own.metrics[kind].of(own.cells).astype(float)
            shown = values.map(np.log) if kind == "ppl" else values
            one, beam = (shown[own.cells["algo"] == algo].tolist() for algo in ("one_shot", "beam"))
            found = paired(np.array(beam), np.array(one))
            ends = [found.mean, found.low, found.high]
            if kind == "ppl":
                means += [number(float(np.exp(np.mean(side)))) for side in (one, beam)]
                differences.append("{:.2f} ({:.2f} to {:.2f})".format(*np.exp(ends)))
            else:
                differences.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*ends))
        rows.append([objective, *means, *differences])
    heads = ["perplexity, one_shot", "beam", "beam : one_shot", "accuracy, points"]
    return _table(["pruned for", *heads], rows)


def outcomes() -> str:
    """Held-out perplexity and accuracy by objective."""
    costs = study("study", ALL).costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity, factor = (at(costs, ("ppl", objective), column) for column in ("mean", "sd"))
        accuracy, sd = (at(costs, ("acc", objective), column) for column in ("mean", "sd"))
        spread = f"{number(perplexity)} \N{MULTIPLICATION SIGN}\N{DIVISION SIGN} {factor:.2f}"
        rows.append([objective, spread, f"{-accuracy:.1f} ± {sd:.1f}"])
    return _table(["pruned for", "perplexity", "accuracy, percent"], rows)


def draws() -> str:
    """The overlap of the masks of two draws, and how often halves of the samples agree, in both studies."""
    rows = []
    for objective in ALL:
        row = [objective]
        for name in ("small", "study"):
            own = study(name, (objective,))
            mean = overlap_pairs.mean(overlap_pairs.pairs(own.cells, "draws"))
            stable = own.stability[0].dropna(subset="other_mask")
            row.append(f"{mean.mean:.2f} ({mean.low:.2f} to {min(1.0, mean.high):.2f})")
            row.append(f"{percent(float(stable['enough_pair'].notna().mean()))}")
        rows.append(row)
    heads = [
        "small: overlap",
        "small: halves agree, percent",
        "larger: overlap",
        "larger: halves agree, percent",
    ]
    return _table(["objective", *heads], rows)


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
    """The page with its tables computed again."""
    for name, table in TABLES.items():
        text = f"<!-- {name}: written by make describe -->\n{table()}\n<!-- end -->"
        page = re.sub(BLOCK.format(name=name), lambda _, text=text: text, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
