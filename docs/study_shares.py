"""How the variance of masks and outcomes is shared between calibration and search, in the archived main study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.figures.variance_shares import ratio_text
from analysis.report.phrasing import percent
from analysis.stats.estimates import IntervalEstimate
from docs.marked_tables import table
from docs.study_archives import ALL, GEMMA, MAIN, SMOLLM2, TEXT, study

OUTCOMES = ("masks", "calibration loss", "perplexity", "accuracy")
MASKS = OUTCOMES[:1]
PAPER = ("perplexity", "margin")
CRITERION = (*TEXT, "block_influence")
SMALL = 0.005  # a share below this would be 0 percent in whole numbers
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")


@dataclass(frozen=True)
class Comparison:
    """Cells that are compared: in words, their objectives, the outcomes that are shown, their model and searches.

    Without searches, all searches of the model are compared.
    """

    words: str
    objectives: tuple[str, ...]
    outcomes: tuple[str, ...] = OUTCOMES
    model: str = SMOLLM2
    searches: tuple[str, ...] = ()


COMPARED = (
    Comparison("SmolLM2: perplexity, divergence, margin", MAIN),
    Comparison("perplexity, margin", PAPER, MASKS),
    Comparison("perplexity, divergence", TEXT, MASKS),
    Comparison("Gemma 3: perplexity, divergence, margin", MAIN, MASKS, GEMMA),
    Comparison("perplexity, divergence", TEXT, MASKS, GEMMA),
)
FURTHER = (
    Comparison("SmolLM2: perplexity, divergence, margin", MAIN),
    Comparison("perplexity, margin", PAPER),
    Comparison("perplexity, divergence, block_influence", CRITERION),
    Comparison("all four", ALL),
    Comparison("perplexity, divergence", TEXT),
    Comparison("the same without one_shot, fast_block_select", TEXT, searches=STRONG),
    Comparison("Gemma 3: perplexity, divergence, margin", MAIN, model=GEMMA),
    Comparison("perplexity, margin", PAPER, model=GEMMA),
    Comparison("perplexity, divergence, block_influence", CRITERION, model=GEMMA),
    Comparison("all four", ALL, model=GEMMA),
    Comparison("perplexity, divergence", TEXT, model=GEMMA),
)


def shares() -> str:
    """Shares of variance and their ratios, for the cells of each comparison."""
    return _shares(COMPARED)


def further() -> str:
    """As `shares`, for more objectives together, and for more outcomes."""
    return _shares(FURTHER)


def _shares(compared: Sequence[Comparison]) -> str:
    rows = []
    for one in compared:
        own = study("study", one.objectives, one.searches, model=one.model)
        found = dict(zip(OUTCOMES, own.shares[0].values(), strict=True))
        for outcome in one.outcomes:
            shown = found[outcome]
            parts = [_share(shown.parts[name]) for name in ("calibration", "search")]
            named = one.words if outcome == one.outcomes[0] else ""
            ratios = [ratio_text(r) for r in (shown.total_ratio, shown.objective_ratio, shown.objective_draw)]
            rows.append([named, outcome, *parts, *ratios])
    heads = ["calibration", "search", "calibration : search", "objective : search", "objective : draw"]
    return table(["objectives", "outcome", *heads], rows)


def _share(estimate: IntervalEstimate) -> str:
    if estimate.high < SMALL:
        return "under 1"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"
