"""The tables in docs/study_tables.md, from the archived studies beside the main one."""

from __future__ import annotations

from analysis.report.phrasing import with_interval
from analysis.stats.relative_perplexity import relative
from docs import study_healing, study_outcomes, study_shares, study_stability
from docs.marked_tables import Tables, table
from docs.study_archives import GEMMA, SMOLLM2, overlap, study

DATA = {"items of ARC-Easy": "arc_easy_train", "labels of Commonsense 170k": "commonsense170k"}
PARTS = (
    ("study", "main comparison", SMOLLM2),
    ("study", "main comparison", GEMMA),
    ("study_all", "all pairs", GEMMA),
    ("study_sizes", "sizes", SMOLLM2),
    ("study_seeds", "seeds", SMOLLM2),
    ("study_labels", "labels", SMOLLM2),
    ("study_units", "sub-layers", SMOLLM2),
    ("study_healing", "repair and healing", SMOLLM2),
)  # archive, in words, model


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


def compute() -> str:
    """The cells of each part of the study and the hours of their searches, for each model."""
    rows = []
    for name, words, model in PARTS:
        cells = study(name, (), model=model).cells
        hours = cells["seconds"].sum() / 3600
        rows.append([words, study_stability.NAMES[model], str(len(cells)), f"{hours:.1f}"])
    return table(["part", "model", "cells", "hours of search"], rows)


TABLES: Tables = {
    "more shares": study_shares.further,
    "gains": study_outcomes.gains,
    "searches on Gemma": study_outcomes.searches_of_gemma,
    "outcomes on Gemma": study_outcomes.outcomes_of_gemma,
    "gains on Gemma": study_outcomes.gains_of_gemma,
    "optimum": study_outcomes.optimum,
    "labels": labels,
    "sizes": study_stability.sizes,
    "seeds": study_stability.seeds,
    "objectives": study_stability.objectives,
    "healed": study_healing.healed,
    "compute": compute,
}
