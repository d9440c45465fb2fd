"""What masks of each objective and each search are worth, in the archived studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.figures.style import number, ordered
from analysis.report.study_data import StudyData
from analysis.stats.frames import at
from docs.marked_tables import table
from docs.study_archives import ALL, GEMMA, MAIN, SMOLLM2, TEXT, overlap, ratio, study

OUTCOMES = ("pruned for", "perplexity", "relative to divergence", "accuracy, percent")


def searches() -> str:
    """How each search did on SmolLM2, against the best mask that any search scored."""
    return _searches(study("study", MAIN), MAIN)


def searches_of_gemma() -> str:
    """How each search did on Gemma 3, against the best mask that any search scored."""
    return _searches(study("study", MAIN, model=GEMMA), MAIN)


def optimum() -> str:
    """How each search did on Gemma 3 where all pairs of blocks were scored, so that the best mask is the optimum."""
    own = study("study_all", TEXT, model=GEMMA)
    return _searches(own, TEXT, {"pairs scored": pairs_scored(own)})


def pairs_scored(own: StudyData) -> dict[str, str]:
    """For each search, the fewest and the most complete masks that a cell of it scored."""
    cells = own.cells[["cell", "algo", "k"]]
    counts = [
        len({tuple(line["dropped"]) for line in own.traces[cell] if len(line["dropped"]) == k})
        for cell, _, k in cells.itertuples(index=False)
    ]
    by = pd.Series(counts).groupby(cells["algo"].to_numpy())
    ends = zip(by.min().items(), by.max(), strict=True)
    return {str(algo): str(low) if low == high else f"{low} to {high}" for (algo, low), high in ends}


def _searches(
    own: StudyData, objectives: Sequence[str], further: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """In how many draws each search found the best known mask, its mean regret in nats per token, and its cost.

    `further` maps the heading of each further column to its text for each search.
    """
    regrets = own.regrets
    rows = []
    for algo in ordered(regrets["algo"]):
        cells = regrets[regrets["algo"] == algo]
        found = [_regret(cells[cells["objective"] == objective]) for objective in objectives]
        more = [texts[str(algo)] for texts in (further or {}).values()]
        rows.append([algo, *found, f"{cells['asked'].astype(float).mean():,.0f}", *more])
    return table(["search", *objectives, "losses asked for", *(further or {})], rows)


def _regret(cells: pd.DataFrame) -> str:
    best = int((cells["regret"] <= 1e-9).sum())
    return f"{best} of {len(cells)}, {cells['regret'].mean():.3f}"


def outcomes() -> str:
    """Held-out perplexity, also relative to that of divergence, and accuracy, by objective, on SmolLM2."""
    return table(OUTCOMES, _outcomes(SMOLLM2))


def outcomes_of_gemma() -> str:
    """As `outcomes`, on Gemma 3, with the overlap of the masks of two draws."""
    overlaps = [overlap(study("study", (objective,), model=GEMMA)) for objective in ALL]
    rows = [[*row, own] for row, own in zip(_outcomes(GEMMA), overlaps, strict=True)]
    return table([*OUTCOMES, "overlap of two draws"], rows)


def _outcomes(model: str) -> list[list[str]]:
    own = study("study", ALL, model=model)
    costs = own.costs.set_index(["outcome", "objective"])
    rows = []
    for objective in ALL:
        perplexity = at(costs, ("ppl", objective), "mean")
        compared = "1" if objective == "divergence" else ratio(own.relative.objectives, objective=objective)
        rows.append([objective, number(perplexity), compared, accuracy(own, objective)])
    return rows


def accuracy(own: StudyData, objective: str) -> str:
    """The mean accuracy in percent of the masks for an objective, with its interval over draws.

    Equal masks show no spread, so they have no interval.
    """
    costs = own.costs.set_index(["outcome", "objective"])
    mean, high, low = (-at(costs, ("acc", objective), column) for column in ("mean", "low", "high"))
    return f"{mean:.1f}, all equal" if np.isclose(low, high) else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def gains() -> str:
    """Held-out perplexity of each search relative to one-shot, paired by draw, on SmolLM2."""
    return _gains(SMOLLM2)


def gains_of_gemma() -> str:
    """As `gains`, on Gemma 3."""
    return _gains(GEMMA)


def _gains(model: str) -> str:
    compared = study("study", MAIN, model=model).relative.searches
    rows = [
        [algo, *(ratio(compared, objective=objective, algo=algo) for objective in MAIN)]
        for algo in ordered(compared["algo"])
    ]
    return table(["search", *MAIN], rows)
