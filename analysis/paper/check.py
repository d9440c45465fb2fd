"""Recompute the numbers that the paper derives from its own tables, and test its statements on these tables.

depth-pruning check-paper        exit status 1 if a published number is not reproduced

Source: arXiv 2604.24938 v1; its tables are in analysis/paper/. Statements of v3 are not tested: its tables are not
public, and those of v1 were not made for them. *Implied* marks a statement that v1 relies on without writing it; this
reading is ours. Thresholds and rules that the paper does not give are marked as ours, too. If noise can explain a
result, the verdict is inconclusive.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..stats.agreement import Agreement, agree, spearman
from ..stats.grid import at, each, groups


def main() -> None:
    """Print the report."""
    text, status = report()
    print("\n".join(text))  # noqa: T201
    sys.exit(status)


def report() -> tuple[list[str], int]:
    """The lines to print, and the exit status."""
    numbers = [*correlations(), *variances(), *averages()]
    failed = sum(not number.reproduced for number in numbers)
    text = ["Numbers, recomputed from the paper's tables", "", f"{'':<52}{'published':>11}{'computed':>11}"]
    for n in numbers:
        mark = "" if n.reproduced else "   not reproduced"
        text.append(f"{n.what:<52}{n.published:>11.{n.digits}f}{n.computed:>11.{n.digits + 2}f}{mark}")
    text += ["", f"{len(numbers) - failed} of {len(numbers)} reproduced", ""]
    text.append("Statements of v1, tested on its tables")
    for statement in statements():
        text += ["", f"[{statement.verdict}] {statement.claim}", *(f"    {fact}" for fact in statement.facts)]
    return text, int(failed > 0)


# The numbers that the paper prints, as frames, and the names of its models in a study.

FOLDER = Path(__file__).parent
CELL = ["model", "k"]
TASKS = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "piqa", "boolq")
CORPORA = ("wikitext2", "c4", "lambada")
# Numbers of items in the whole test sets. Each accuracy in the paper's table 1 is a whole number of these items.
ITEMS = dict(zip(TASKS, (10_042, 1_267, 2_376, 1_172, 1_838, 3_270), strict=True))
# The paper's models: the name in this project -> the name in the paper's tables.
MODELS = {"llama3": "llama3", "llama3_1": "llama3.1", "qwen3": "qwen3"}


@cache
def read(name: str) -> pd.DataFrame:
    """One of the published tables: table1_accuracy, table2_perplexity, table3_search_seconds, ..."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def pruned(name: str) -> pd.DataFrame:
    """A published table without the rows of the whole models."""
    table = read(name)
    return table[table["algo"] != "dense"].reset_index(drop=True)


def dense(name: str, model: str) -> float:
    """The published average of the dense model `model`, given by its name in a study."""
    table = read(name)
    rows = table[(table["algo"] == "dense") & (table["model"] == MODELS.get(model))]
    return float(rows["average"].iloc[0])


def value(table: pd.DataFrame, column: str, model: str, k: int, algo: str) -> float:
    """The published number of a model, given by its name in a study; NaN if the paper has no such number."""
    rows = table[(table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["algo"] == algo)]
    return float(rows[column].iloc[0]) if len(rows) else float("nan")


def cells(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each model and k of a published table, such as `llama3 M7`, and its rows by search."""
    for (model, k), cell in groups(table, CELL):
        yield f"{model} M{k}", cell.set_index("algo")


# Published numbers, and the same numbers recomputed from the paper's tables.


@dataclass(frozen=True)
class Recomputed:
    """A published number, and the same number recomputed from the paper's tables."""

    what: str
    published: float
    computed: float
    digits: int

    @property
    def reproduced(self) -> bool:
        """Whether both numbers agree in the printed digits."""
        return bool(abs(self.computed - self.published) <= 0.5 * 10**-self.digits + 1e-9)


def correlations() -> Iterator[Recomputed]:
    """Recompute Spearman's rho of figure 2 from the printed ranks; tied ranks are averaged."""
    for name, cell in cells(read("figure2_ranks")):
        rho = float(spearman(cell["perplexity_rank"].to_numpy(), cell["accuracy_rank"].to_numpy()))
        yield Recomputed(f"figure 2, rho, {name}", cell["published_spearman"].iloc[0], rho, 2)


def variances() -> Iterator[Recomputed]:
    """Recompute the variances of figure 3 over the seven searches, with ddof 0 and duplicates included."""
    tables = {
        "average_accuracy": pruned("table1_accuracy"),
        "average_perplexity": pruned("table2_perplexity"),
    }
    for row in each(read("figure3_variance")):
        table = tables[row.outcome]
        values = table.loc[(table["model"] == row.model) & (table["k"] == row.k), "average"]
        what = f"figure 3, variance of {row.outcome.replace('_', ' ')}, {row.model} M{row.k}"
        yield Recomputed(what, float(row.published_variance), float(np.var(values, ddof=0)), 1)


def averages() -> Iterator[Recomputed]:
    """Count the averages in tables 1 and 2 that differ from the mean of their row by more than rounding errors."""
    for name, columns in (("table1_accuracy", TASKS), ("table2_perplexity", CORPORA)):
        table = read(name)
        means = table[list(columns)].mean(axis=1)
        off = (means - table["average"]).abs() > 0.0101  # columns and averages are rounded to two digits
        yield Recomputed(f"{name.replace('_', ', ')}: averages off", 0, float(off.sum()), 0)


# Statements of the paper's v1, each tested on the tables of v1. Every number is computed here.

LEVEL = 0.05  # ours: a p-value, or a q-value, of at most this is significant
OURS = f"our level is {LEVEL}"
AGREES, DISAGREES, OPEN = "the tables agree", "the tables do not agree", "inconclusive"


@dataclass(frozen=True)
class Statement:
    """A statement, the verdict of the tables (AGREES, DISAGREES or OPEN), and the numbers that decide it."""

    claim: str
    verdict: str
    facts: tuple[str, ...]


def statements() -> list[Statement]:
    """All statements, in the order of the paper."""
    return [check() for check in (ranges, five_of_six, anticorrelated, elitist, proxy, duplicates)]


def of(decided: bool | None) -> str:
    """The verdict for what a rule decided; OPEN if it decided nothing."""
    return OPEN if decided is None else AGREES if decided else DISAGREES


def listed(values: Sequence[tuple[str, float]], digits: int = 2) -> str:
    """Names with their values, as text."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values)


def most(decided: Iterable[bool | None]) -> bool | None:
    """The side that more than half of all cells take; None if there is no such side."""
    every = list(decided)
    return next((side for side in (True, False) if 2 * every.count(side) > len(every)), None)


@dataclass(frozen=True)
class Span:
    """The range of a cell's accuracies in points, and the range that noise alone exceeds in 5 percent of cases."""

    span: float
    noise: float

    def between(self, low: float, high: float) -> bool | None:
        """Whether the true span is between `low` and `high` points; None if noise hides it.

        Noise can change a span by at most its own span. So in 95 percent of cases, the true span differs from the
        measured span by at most `noise`.
        """
        least, most = self.span - self.noise, self.span + self.noise
        if most < low or least > high:
            return False
        return True if low <= least and most <= high else None


def ranges() -> Statement:
    """Check claim (iii): the range of accuracies over the searches of each cell, beside the range of noise alone."""
    spans = [(name, _span(cell)) for name, cell in cells(pruned("table1_accuracy"))]
    sides = [span.between(1, 3) for _, span in spans]
    printed = sum(1 <= round(span.span, 1) <= 3 for _, span in spans)
    noise = [span.noise for _, span in spans]
    return Statement(
        "'average accuracy differences of 1-3 percentage points' between searches (v1)",
        of(most(sides)),
        (
            f"highest minus lowest: {listed([(name, span.span) for name, span in spans], 1)}",
            f"as printed, {printed} of {len(spans)} cells are between 1 and 3; whatever the noise, "
            f"{sides.count(True)} are between 1 and 3 and {sides.count(False)} outside",
            f"noise of the items alone exceeds {min(noise):.1f} to {max(noise):.1f} points in 5 percent of cases "
            "(our estimate: binomial, independent searches, which overstates it)",
            "our reading: most cells decide",
        ),
    )


def _span(cell: pd.DataFrame) -> Span:
    """The range of a cell's average accuracies, and the range that item noise alone exceeds in 5 percent of cases.

    The paper gives no standard errors, so binomial errors are used. Equal masks have equal noise, so they count once.
    """
    squares = [cell[task] / 100 * (1 - cell[task] / 100) / n for task, n in ITEMS.items()]
    error = 100 * float(np.sqrt(np.mean(np.sum(squares, axis=0)))) / len(ITEMS)
    distinct = len(cell.drop_duplicates(["average", "margin"]))
    quantile = float(stats.studentized_range.ppf(0.95, distinct, np.inf))
    return Span(float(np.ptp(cell["average"])), error * quantile)


def _of_ranks() -> list[tuple[str, Agreement]]:
    ranked = cells(read("figure2_ranks"))
    return [(name, agree(cell["perplexity_rank"], cell["accuracy_rank"])) for name, cell in ranked]


def five_of_six() -> Statement:
    """Check claim (ii) literally: count the negative correlations."""
    rhos = [(name, found.statistic) for name, found in _of_ranks()]
    negative = sum(rho < 0 for _, rho in rhos)
    return Statement(
        "'five of six' Spearman correlations of perplexity with accuracy are negative (v1)",
        of(negative == 5),
        (f"negative: {negative} of {len(rhos)}: {listed(rhos)}",),
    )


def anticorrelated() -> Statement:
    """Check claim (ii) as evidence: test whether the correlations, each over seven points, differ from chance."""
    found = _of_ranks()
    adjusted = stats.false_discovery_control([a.p for _, a in found])
    rhos = [a.statistic for _, a in found]
    coin = float(stats.binom.sf(sum(rho < 0 for rho in rhos) - 1, len(rhos), 0.5))
    return Statement(
        "implied: these correlations show that ranks by perplexity and by accuracy disagree",
        of(_all_negative(rhos, adjusted)),
        (
            f"probability that a fair coin gives at least as many negative signs: {coin:.2f}",
            f"exact two-sided permutation p: {listed([(n, a.p) for n, a in found], 3)}",
            f"at most {LEVEL}: {sum(a.p <= LEVEL for _, a in found)} of {len(found)}; "
            f"with the false discovery rate controlled: {sum(p <= LEVEL for p in adjusted)}; {OURS}",
            "our reading: only correlations that chance does not explain decide",
        ),
    )


def _all_negative(correlations: Sequence[float], adjusted: Sequence[float]) -> bool | None:
    """Whether the significant correlations are negative; None if there are none, or if their signs differ."""
    signs = {value < 0 for value, q in zip(correlations, adjusted, strict=True) if q <= LEVEL}
    return signs.pop() if len(signs) == 1 else None


def duplicates() -> Statement:
    """Check whether the variance between searches changes if equal masks are counted more than once."""
    facts, smaller, larger, n = [], 0, 0, 0
    for table, word in (("table1_accuracy", "accuracy"), ("table2_perplexity", "perplexity")):
        pairs = []
        for name, cell in cells(pruned(table)):
            once = cell.drop_duplicates([c for c in cell if c not in CELL])
            pairs.append((name, float(np.var(cell["average"])), float(np.var(once["average"]))))
        smaller += sum(a < b - 1e-9 for _, a, b in pairs)
        larger += sum(a > b + 1e-9 for _, a, b in pairs)
        n += len(pairs)
        facts.append(
            f"{word}, all and distinct: " + ", ".join(f"{c} {a:.1f} and {b:.1f}" for c, a, b in pairs)
        )
    facts.append(f"of {n} cells, duplicates lower the variance in {smaller} and raise it in {larger}")
    facts.append("our reading: any change of the variance counts")
    claim = "implied: the variance between searches does not depend on duplicate masks"
    return Statement(claim, of(smaller + larger == 0), tuple(facts))


def elitist() -> Statement:
    """Count searches that start from the one-shot mask and end worse.

    On the samples of the search, a search that keeps its best mask cannot end worse. On other samples, noise makes
    one of two equally good masks look worse. The paper does not say from which samples its columns are.
    """
    tables = {"margin": ("table1_accuracy", "margin"), "C4 perplexity": ("table2_perplexity", "c4")}
    counts = {name: _against_one_shot(*where) for name, where in tables.items()}
    chance = [float(stats.binom.sf(worse - 1, worse + better, 0.5)) for worse, better, _ in counts.values()]
    verdict = DISAGREES if min(stats.false_discovery_control(chance)) <= LEVEL else OPEN
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
    """The numbers of genetic and Bayesian results that are worse than one-shot's, that are better, and of all."""
    differences = [
        at(cell, algo, column) - at(cell, "one_shot", column)
        for _, cell in cells(pruned(table))
        for algo in ("genetic", "bayesian")
    ]
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)


def proxy() -> Statement:
    """Check whether a better margin goes with a better accuracy."""
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
    """The verdict on whether all correlations are positive. Correlations that chance can explain decide nothing."""
    sure = [a for a in correlations if a.p <= LEVEL]
    if any(a.statistic < 0 for a in sure):
        return DISAGREES
    return AGREES if len(sure) == len(correlations) else OPEN
