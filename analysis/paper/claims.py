"""Statements of the paper's v1, each tested on the tables of v1. Every number is computed here.

Statements of v3 are not tested: its tables are not public, and those of v1 were not made for them. *Implied* marks a
statement that v1 relies on without writing it; that reading is ours. So are thresholds that the paper does not give;
each is named as ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..stats.agreement import Agreement, agree, controlled
from ..stats.frames import at, groups
from .published import pruned, read

CELL = ["model", "k"]
LEVEL = 0.05
AGREES, DISAGREES, OPEN = "the tables agree", "the tables do not agree", "inconclusive"
NEAR, ALIKE, MATCH = (
    0.03,
    1.25,
    0.1,
)  # ours: near ties in C4, equally good on LAMBADA, and a match of two times


@dataclass(frozen=True)
class Statement:
    """A statement, the verdict of the tables (AGREES, DISAGREES or OPEN), and the numbers that decide it."""

    claim: str
    verdict: str
    facts: tuple[str, ...]


def statements() -> list[Statement]:
    """All statements, in the order of the paper."""
    checks = (ranges, five_of_six, anticorrelated, near_ties, elitist, proxy)
    return [check() for check in (*checks, better_than_dense, seven, duplicates, closed_form)]


def _literal(holds: bool) -> str:
    """The verdict on a statement that the tables decide by counting."""
    return AGREES if holds else DISAGREES


def _cells(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (model, k), cell in groups(table, CELL):
        yield f"{model} M{k}", cell.set_index("algo")


def _listed(values: Sequence[tuple[str, float]], digits: int = 2) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values)


def ranges() -> Statement:
    """Check claim (iii) by the range of accuracy over the searches of each cell."""
    spans = [(name, float(np.ptp(cell["average"]))) for name, cell in _cells(pruned("table1_accuracy"))]
    inside = sum(1 <= round(value, 1) <= 3 for _, value in spans)
    return Statement(
        "'average accuracy differences of 1-3 percentage points' between searches (v1)",
        _literal(inside == len(spans)),
        (f"highest minus lowest: {_listed(spans, 1)}", f"{inside} of {len(spans)} cells are between 1 and 3"),
    )


def five_of_six() -> Statement:
    """Check claim (ii) literally: count the negative correlations."""
    cells = _cells(read("figure2_ranks"))
    correlations = [
        (name, agree(cell["perplexity_rank"], cell["accuracy_rank"]).statistic) for name, cell in cells
    ]
    negative = sum(rho < 0 for _, rho in correlations)
    return Statement(
        "'five of six' Spearman correlations of perplexity with accuracy are negative (v1)",
        _literal(negative == 5),
        (f"negative: {negative} of {len(correlations)}: {_listed(correlations)}",),
    )


def anticorrelated() -> Statement:
    """Check claim (ii) as evidence: test whether the correlations, each over seven points, differ from chance."""
    cells = _cells(read("figure2_ranks"))
    correlations = [(name, agree(cell["perplexity_rank"], cell["accuracy_rank"])) for name, cell in cells]
    adjusted = controlled([a.p for _, a in correlations])
    negative = sum(a.statistic < 0 for _, a in correlations)
    coin = float(stats.binom.sf(negative - 1, len(correlations), 0.5))
    return Statement(
        "implied: these correlations show that ranks by perplexity and by accuracy disagree",
        AGREES if coin <= LEVEL and any(p <= LEVEL for p in adjusted) else OPEN,
        (
            f"probability that a fair coin gives at least as many negative signs: {coin:.2f}",
            f"exact two-sided permutation p: {_listed([(n, a.p) for n, a in correlations], 3)}",
            f"at most {LEVEL}: {sum(a.p <= LEVEL for _, a in correlations)} of {len(correlations)}; "
            f"with the false discovery rate controlled: {sum(p <= LEVEL for p in adjusted)}",
        ),
    )


def elitist() -> Statement:
    """Count searches that start from the one-shot mask and end worse.

    A search that keeps its best mask cannot end worse.
    """
    worse = {"margin": [0, 0], "C4": [0, 0]}
    searches = ("genetic", "bayesian")
    for key, table, column in (("margin", "table1_accuracy", "margin"), ("C4", "table2_perplexity", "c4")):
        for _, cell in _cells(pruned(table)):
            for algo in searches:
                worse[key][0] += at(cell, algo, column) > at(cell, "one_shot", column)
                worse[key][1] += 1
    (a, of_a), (b, of_b) = worse.values()
    return Statement(
        "implied: prior-guided GA and BO do not end worse than the one-shot mask that guides them",
        _literal(a == b == 0),
        (f"worse than one-shot on the objective: margin {a} of {of_a}, C4 perplexity {b} of {of_b}",),
    )


def better_than_dense() -> Statement:
    """Whether the margin measures damage. If it does, no pruned model has a better margin than the whole model."""
    table = read("table1_accuracy")
    dense = table[table["algo"] == "dense"].set_index("model")["margin"]
    cut = table[table["algo"] != "dense"]
    better = cut["margin"] < cut["model"].map(dense)
    return Statement(
        "implied: the margin measures what pruning costs",
        _literal(not better.any()),
        (f"pruned models with a better margin than the whole model: {int(better.sum())} of {len(cut)}",),
    )


def proxy() -> Statement:
    """Whether a better margin means a better accuracy."""
    correlations, hits = list[tuple[str, Agreement]](), 0
    for name, cell in _cells(pruned("table1_accuracy")):
        correlations.append((name, agree(cell["average"], -cell["margin"])))
        best = cell.loc[cell["margin"] == cell["margin"].min(), "average"]
        hits += bool((best == cell["average"].max()).any())
    return Statement(
        "implied: the margin is a proxy of downstream accuracy",
        _of_signs([a for _, a in correlations]),
        (
            f"Spearman of accuracy with minus the margin: {_listed([(n, a.statistic) for n, a in correlations])}",
            f"exact p at most {LEVEL}: {sum(a.p <= LEVEL for _, a in correlations)} of {len(correlations)}",
            f"the search with the best margin has the best accuracy in {hits} of {len(correlations)} cells",
        ),
    )


def _of_signs(correlations: Sequence[Agreement]) -> str:
    """Whether all correlations are positive. Correlations that chance can explain decide nothing."""
    sure = [a for a in correlations if a.p <= LEVEL]
    if any(a.statistic < 0 for a in sure):
        return DISAGREES
    return AGREES if len(sure) == len(correlations) else OPEN


def seven() -> Statement:
    """How many distinct results the searches have in each cell of the margin objective."""
    columns = ["average", "margin"]
    cells = list(_cells(pruned("table1_accuracy")))
    same = sum(
        bool((c.loc["fast_block_select", columns] == c.loc["one_shot", columns]).all()) for _, c in cells
    )
    counts = [(name, float(len(cell.drop_duplicates(columns)))) for name, cell in cells]
    return Statement(
        "seven searches are compared in each margin cell (v1)",
        _literal(same == 0),
        (
            f"fast-block-select equals one-shot in {same} of {len(cells)} cells",
            f"distinct results: {_listed(counts, 0)}",
        ),
    )


def duplicates() -> Statement:
    """How the variance between searches changes if equal masks are counted more than once."""
    facts, smaller, larger, n = [], 0, 0, 0
    for table, word in (("table1_accuracy", "accuracy"), ("table2_perplexity", "perplexity")):
        pairs = []
        for name, cell in _cells(pruned(table)):
            once = cell.drop_duplicates([c for c in cell if c not in CELL])
            pairs.append((name, float(np.var(cell["average"])), float(np.var(once["average"]))))
        smaller += sum(a < b - 1e-9 for _, a, b in pairs)
        larger += sum(a > b + 1e-9 for _, a, b in pairs)
        n += len(pairs)
        facts.append(
            f"{word}, all and distinct: " + ", ".join(f"{c} {a:.1f} and {b:.1f}" for c, a, b in pairs)
        )
    facts.append(f"of {n} cells, duplicates lower the variance in {smaller} and raise it in {larger}")
    claim = "implied: the variance between searches does not depend on duplicate masks"
    return Statement(claim, _literal(smaller + larger == 0), tuple(facts))


def near_ties() -> Statement:
    """Whether masks that are near ties on C4 are equally good on LAMBADA.

    The pair that differs most on LAMBADA decides.
    """
    worst = (0.0, "")
    for name, cell in _cells(pruned("table2_perplexity")):
        for a, first in cell.iterrows():
            for b, second in cell.iterrows():
                if first["c4"] <= second["c4"] <= (1 + NEAR) * first["c4"]:
                    factor = max(first["lambada"] / second["lambada"], second["lambada"] / first["lambada"])
                    text = f"{name} {a} and {b}: C4 {first['c4']:.2f} and {second['c4']:.2f}, LAMBADA "
                    worst = max(worst, (factor, f"{text}{first['lambada']:.2f} and {second['lambada']:.2f}"))
    return Statement(
        "implied: masks that are near ties on C4 are equally good elsewhere",
        _literal(worst[0] <= ALIKE),
        (
            worst[1],
            f"a factor of {worst[0]:.2f}",
            f"our thresholds: within {100 * NEAR:.0f} percent on C4, a factor of {ALIKE} on LAMBADA",
        ),
    )


def closed_form() -> Statement:
    """Infer from CBO's time in table 3 what CBO evaluated.

    Evaluation time is proportional to the number of blocks left.
    """
    time = read("table3_search_seconds").set_index("algo")["seconds"]
    n, k, open_blocks = 32, 7, 30
    per_pass = float(time["one_shot"]) / open_blocks / (n - 1)  # seconds to run one block on the data
    greedy = sum((open_blocks - i) * (n - 1 - i) for i in range(k)) * per_pass
    pairs = (open_blocks * (n - 1) + open_blocks * (open_blocks - 1) // 2 * (n - 2)) * per_pass
    off = abs(pairs / float(time["cbo"]) - 1)
    return Statement(
        "implied: CBO is the cited method (one backward pass per sample) and does not measure all pairs",
        AGREES if off > MATCH else OPEN,
        (
            f"the cost model gives {greedy:,.0f} s for greedy; the paper prints {time['greedy']:,.0f} s",
            f"all singles and pairs would take {pairs:,.0f} s; CBO took {time['cbo']:,.0f} s, "
            f"a difference of {100 * off:.1f} percent",
            f"the cost model is ours, and so is the threshold: {100 * MATCH:.0f} percent",
        ),
    )
