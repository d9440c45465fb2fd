"""How the variance of masks and outcomes is shared between calibration and search, in the archived main study."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.variance_shares import ratio_text
from analysis.report.phrasing import percent
from analysis.stats.estimates import IntervalEstimate
from docs.study_archives import ALL, MAIN, TEXT, study, table

PAPER = ("perplexity", "margin")
OUTCOMES = ("masks (Jaccard distance)", "calibration loss", "held-out perplexity (log)", "accuracy")
STRONG = ("greedy", "beam", "genetic", "bayesian", "cbo")
Comparison = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
# Cells that are compared: in words, their objectives and searches (all if empty), and the outcomes that are shown.
COMPARED = (
    ("perplexity, divergence, margin", MAIN, (), OUTCOMES),
    ("perplexity, margin", PAPER, (), OUTCOMES[:1]),
    ("perplexity, divergence", TEXT, (), OUTCOMES[:1]),
    ("the same without one_shot, fast_block_select", TEXT, STRONG, OUTCOMES[:1]),
)
FURTHER = (
    ("perplexity, margin", PAPER, (), OUTCOMES),
    ("perplexity, divergence, block_influence", (*TEXT, "block_influence"), (), OUTCOMES),
    ("all four", ALL, (), OUTCOMES),
    ("perplexity, divergence", TEXT, (), OUTCOMES),
)


def shares() -> str:
    """Shares of variance and their ratios, for the cells of each comparison."""
    return _shares(COMPARED)


def further() -> str:
    """As `shares`, for more objectives together, and for more outcomes."""
    return _shares(FURTHER)


def _shares(compared: Sequence[Comparison]) -> str:
    rows = []
    for words, objectives, algos, outcomes in compared:
        found = dict(zip(OUTCOMES, study("study", objectives, algos).shares[0].values(), strict=True))
        for outcome in outcomes:
            own = found[outcome]
            parts = [_share(own.parts[name]) for name in ("calibration", "search")]
            named = words if outcome == outcomes[0] else ""
            ratios = [ratio_text(r) for r in (own.total_ratio, own.objective_ratio, own.objective_draw)]
            rows.append([named, outcome, *parts, *ratios])
    heads = ["calibration", "search", "calibration : search", "objective : search", "objective : draw"]
    return table(["objectives", "outcome", *heads], rows)


def _share(estimate: IntervalEstimate) -> str:
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"
