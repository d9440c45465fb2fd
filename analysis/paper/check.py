"""Recompute the numbers that the paper derives from its own tables.

depth-pruning check-paper        exit status 1 if a published number is not reproduced

Source: arXiv 2604.24938 v1; its tables come with this program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..stats.agreement import spearman
from ..stats.grid import each, groups


def main() -> None:
    """Print the report, and exit with its status."""
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
    return [*text, "", f"{len(numbers) - failed} of {len(numbers)} reproduced"], int(failed > 0)


# The numbers printed in the paper, as frames, and the names of the paper's models in a study.

FOLDER = Path(__file__).parent
CELL = ["model", "k"]
TASKS = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "piqa", "boolq")
CORPORA = ("wikitext2", "c4", "lambada")
# The paper's models: the name in this project -> the name in the paper's tables.
MODELS = {"llama3": "llama3", "llama3_1": "llama3.1", "qwen3": "qwen3"}


@cache
def read(name: str) -> pd.DataFrame:
    """One of the published tables: table1_accuracy, table2_perplexity, table3_search_seconds, ..."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def of_pruned(name: str) -> pd.DataFrame:
    """A published table without the rows of unpruned models."""
    table = read(name)
    return table[table["algo"] != "dense"].reset_index(drop=True)


def dense(name: str, model: str) -> float:
    """The average of a dense model in the published table `name`. `model` is the model's name in a study."""
    table = read(name)
    rows = table[(table["algo"] == "dense") & (table["model"] == MODELS.get(model))]
    return float(rows["average"].iloc[0])


def value(table: pd.DataFrame, column: str, model: str, k: int, algo: str) -> float:
    """A published number; NaN if there is none. `model` is the model's name in a study."""
    rows = table[(table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["algo"] == algo)]
    return float(rows[column].iloc[0]) if len(rows) else float("nan")


def cells(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name of each model and k of a published table, such as `llama3 M7`, and its rows, keyed by search."""
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
        """Whether both numbers agree in the digits that the paper prints."""
        return bool(abs(self.computed - self.published) <= 0.5 * 10**-self.digits + 1e-9)


def correlations() -> Iterator[Recomputed]:
    """Recompute Spearman's rho of figure 2 from the printed ranks; tied ranks are averaged."""
    for name, cell in cells(read("figure2_ranks")):
        rho = float(spearman(cell["perplexity_rank"].to_numpy(), cell["accuracy_rank"].to_numpy()))
        yield Recomputed(f"figure 2, rho, {name}", cell["published_spearman"].iloc[0], rho, 2)


def variances() -> Iterator[Recomputed]:
    """Recompute the variances (ddof 0) of figure 3 over the seven searches, including duplicates."""
    tables = {
        "average_accuracy": of_pruned("table1_accuracy"),
        "average_perplexity": of_pruned("table2_perplexity"),
    }
    for row in each(read("figure3_variance")):
        table = tables[row.outcome]
        values = table.loc[(table["model"] == row.model) & (table["k"] == row.k), "average"]
        what = f"figure 3, variance of {row.outcome.replace('_', ' ')}, {row.model} M{row.k}"
        yield Recomputed(what, float(row.published_variance), float(np.var(values, ddof=0)), 1)


def averages() -> Iterator[Recomputed]:
    """Count the averages in tables 1 and 2 that differ from their row's mean by more than rounding errors."""
    for name, columns in (("table1_accuracy", TASKS), ("table2_perplexity", CORPORA)):
        table = read(name)
        means = table[list(columns)].mean(axis=1)
        off = (means - table["average"]).abs() > 0.0101  # columns and averages are rounded to two digits
        yield Recomputed(f"{name.replace('_', ', ')}: averages off", 0, float(off.sum()), 0)
