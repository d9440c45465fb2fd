"""Recompute the numbers that the paper derives from its own tables, and test its statements on these tables.

python -m analysis.paper_check        exit status 1 if a published number is not reproduced

Source: arXiv 2604.24938 v1; its tables are in analysis/paper/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..stats.agreement import spearman
from ..stats.frames import each, groups
from . import claims
from .published import CORPORA, TASKS, pruned, read

CELL = ["model", "k"]


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


def correlations() -> list[Recomputed]:
    """Recompute Spearman's rho of figure 2 from the printed ranks; tied ranks are averaged."""
    numbers = []
    for (model, k), cell in groups(read("figure2_ranks"), CELL):
        rho = float(spearman(cell["perplexity_rank"].to_numpy(), cell["accuracy_rank"].to_numpy()))
        numbers.append(Recomputed(f"figure 2, rho, {model} M{k}", cell["published_spearman"].iloc[0], rho, 2))
    return numbers


def variances() -> list[Recomputed]:
    """Recompute the variances of figure 3 over the seven searches, with ddof 0 and duplicates included."""
    outcomes = {
        "average_accuracy": pruned("table1_accuracy"),
        "average_perplexity": pruned("table2_perplexity"),
    }
    numbers = []
    for row in each(read("figure3_variance")):
        table = outcomes[str(row.outcome)]
        values = table.loc[(table["model"] == row.model) & (table["k"] == row.k), "average"]
        what = f"figure 3, variance of {str(row.outcome).replace('_', ' ')}, {row.model} M{row.k}"
        numbers.append(Recomputed(what, float(str(row.published_variance)), float(np.var(values, ddof=0)), 1))
    return numbers


def averages() -> list[Recomputed]:
    """Count the averages printed in tables 1 and 2 that differ from the mean of their row by more than rounding."""
    numbers = []
    for name, columns in (("table1_accuracy", TASKS), ("table2_perplexity", CORPORA)):
        table = read(name)
        means = table[list(columns)].mean(axis=1)
        off = (means - table["average"]).abs() > 0.0101  # columns and averages are rounded to two digits
        numbers.append(Recomputed(f"{name.replace('_', ', ')}: averages off", 0, float(off.sum()), 0))
    return numbers


def lines(numbers: Iterable[Recomputed]) -> Iterable[str]:
    """The lines of a table with a row for each number."""
    yield f"{'':<52}{'published':>11}{'computed':>11}"
    for n in numbers:
        mark = "" if n.reproduced else "   not reproduced"
        yield f"{n.what:<52}{n.published:>11.{n.digits}f}{n.computed:>11.{n.digits + 2}f}{mark}"


def report() -> tuple[list[str], int]:
    """The lines to print, and the exit status."""
    numbers = [*correlations(), *variances(), *averages()]
    failed = sum(not number.reproduced for number in numbers)
    text = ["Numbers, recomputed from the paper's tables", "", *lines(numbers), ""]
    text += [
        f"{len(numbers) - failed} of {len(numbers)} reproduced",
        "",
        "Statements of v1, tested on its tables",
    ]
    for statement in claims.statements():
        text += ["", f"[{statement.verdict}] {statement.claim}", *(f"    {fact}" for fact in statement.facts)]
    return text, int(failed > 0)


def main() -> None:
    """Print the report."""
    text, status = report()
    print("\n".join(text))  # noqa: T201
    sys.exit(status)
