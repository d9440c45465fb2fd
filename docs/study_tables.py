"""The tables in docs/study_tables.md, from the archived studies beside the main one."""

from __future__ import annotations

from collections.abc import Callable

from analysis.report.phrasing import with_interval
from analysis.stats.relative_perplexity import relative
from docs import study_healing, study_outcomes, study_shares, study_stability
from docs.marked_tables import table
from docs.study_archives import ROOT, overlap, study

DATA = {"items of ARC-Easy": "arc_easy_train", "labels of Commonsense 170k": "commonsense170k"}
PAGE = ROOT / "docs" / "study_tables.md"


def labels() -> str:
    """The margin on items that the model answers, and on labels, which it does not."""
    heads = ["margin on", "unpruned", "pruned", "relative to divergence", "accuracy, percent", "overlap"]
    return table(heads, [[words, *_margin(data)] for words, data in DATA.items()])


def _margin(data: str) -> list[str]:
    own = study("study_labels", ("margin",), calibration=data)
    base = study("study", ("divergence",), tuple(own.cells["algo"].unique()))
    found = relative(own.states.query("state == 'pruned'"), base.states.query("state == 'pruned'"))
    losses = [f"{-own.cells[column].mean():.2f}" for column in ("dense_loss", "loss")]
    return [
        *losses,
        with_interval(found.value, found.low, found.high),
        f"{own.metrics['acc'].of(own.cells).mean():.1f}",
        overlap(own),
    ]


TABLES: dict[str, Callable[[], str]] = {
    "more shares": study_shares.further,
    "gains": study_outcomes.gains,
    "searches on Gemma": study_outcomes.searches_of_gemma,
    "outcomes on Gemma": study_outcomes.outcomes_of_gemma,
    "gains on Gemma": study_outcomes.gains_of_gemma,
    "optimum": study_outcomes.optimum,
    "labels": labels,
    "sizes": study_stability.sizes,
    "seeds": study_stability.seeds,
    "healed": study_healing.healed,
}
