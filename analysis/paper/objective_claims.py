"""Implied statements of v1 on what objectives measure and how far searches get, tested on the tables of v1."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats

from ..stats.agreement import Agreement, agree, controlled
from ..stats.frames import at
from ..stats.rules import LEVEL
from .published import pruned, read
from .statement import AGREES, DISAGREES, OPEN, OURS, Statement, cells, listed


def elitist() -> Statement:
    """Count searches that start from the one-shot mask and end worse.

    A search that keeps its best mask cannot end worse on the samples that it searched on. On other samples, noise
    makes every second of two equally good masks worse. The paper does not say which samples its columns are of.
    """
    tables = {"margin": ("table1_accuracy", "margin"), "C4 perplexity": ("table2_perplexity", "c4")}
    counts = {name: _against_one_shot(*where) for name, where in tables.items()}
    chance = [float(stats.binom.sf(worse - 1, worse + better, 0.5)) for worse, better, _ in counts.values()]
    verdict = DISAGREES if min(controlled(chance)) <= LEVEL else OPEN
    if not any(worse for worse, *_ in counts.values()):
        verdict = AGREES
    found = [f"{name} {worse} of {of}" for name, (worse, _, of) in counts.items()]
    return Statement(
        "implied: prior-guided GA and BO do not end worse than the one-shot mask that guides them",
        verdict,
        (
            f"worse than one-shot on the objective: {', '.join(found)}",
            "probability that a fair coin gives at least as many: "
            f"{listed(list(zip(counts, chance, strict=True)))}; {OURS}",
            "on the samples of the search, one case would be enough, but the paper does not say which samples these "
            "are; our reading: on others, only more cases than chance explains count",
        ),
    )


def _against_one_shot(table: str, column: str) -> tuple[int, int, int]:
    """How many results of genetic and Bayesian search are worse than one-shot's, how many better, and of how many."""
    differences = [
        at(cell, algo, column) - at(cell, "one_shot", column)
        for _, cell in cells(pruned(table))
        for algo in ("genetic", "bayesian")
    ]
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)


def better_than_dense() -> Statement:
    """Whether the margin rates most pruned models clearly worse than the whole model, as damage should be.

    Without standard errors, no difference is clear, so the tables cannot decide.
    """
    table = read("table1_accuracy")
    dense = table[table["algo"] == "dense"].set_index("model")["margin"]
    cut = table[table["algo"] != "dense"]
    better = (cut["margin"] < cut["model"].map(dense)).groupby(cut["model"])
    counts = [f"{model} {int(flags.sum())} of {len(flags)}" for model, flags in better]
    return Statement(
        "implied: the margin measures what pruning costs",
        OPEN,
        (
            f"pruned models with a better margin than the whole model: {', '.join(counts)}",
            "our reading: most cells decide, if their difference is clear; the tables give no standard errors of it",
        ),
    )


def proxy() -> Statement:
    """Whether a better margin means a better accuracy."""
    correlations, hits = list[tuple[str, Agreement]](), 0
    for name, cell in cells(pruned("table1_accuracy")):
        correlations.append((name, agree(cell["average"], -cell["margin"])))
        best = cell.loc[cell["margin"] == cell["margin"].min(), "average"]
        hits += bool((best == cell["average"].max()).any())
    return Statement(
        "implied: the margin is a proxy of downstream accuracy",
        _of_signs([a for _, a in correlations]),
        (
            f"Spearman of accuracy with minus the margin: {listed([(n, a.statistic) for n, a in correlations])}",
            f"exact p at most {LEVEL}: {sum(a.p <= LEVEL for _, a in correlations)} of {len(correlations)}; {OURS}",
            f"the search with the best margin has the best accuracy in {hits} of {len(correlations)} cells",
            "our reading: it is one if all correlations are positive beyond chance, and none if one is negative so",
        ),
    )


def _of_signs(correlations: Sequence[Agreement]) -> str:
    """Whether all correlations are positive. Correlations that chance can explain decide nothing."""
    sure = [a for a in correlations if a.p <= LEVEL]
    if any(a.statistic < 0 for a in sure):
        return DISAGREES
    return AGREES if len(sure) == len(correlations) else OPEN
