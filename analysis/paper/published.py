"""The numbers that arXiv 2604.24938 prints, as frames, and the names of its models in a study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent
TASKS = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "piqa", "boolq")
CORPORA = ("wikitext2", "c4", "lambada")
# Items of the whole test sets. Each accuracy in the paper's table 1 is a whole number of these items.
ITEMS = dict(zip(TASKS, (10_042, 1_267, 2_376, 1_172, 1_838, 3_270), strict=True))
# The paper's models: name in this project -> name in the paper's tables.
MODELS = {"llama3": "llama3", "llama3_1": "llama3.1", "qwen3": "qwen3"}


def read(name: str) -> pd.DataFrame:
    """One of the published tables: table1_accuracy, table2_perplexity, table3_search_seconds, ..."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def pruned(name: str) -> pd.DataFrame:
    """A published table without the rows of the whole models."""
    table = read(name)
    return table[table["algo"] != "dense"].reset_index(drop=True)


def dense(name: str, model: str) -> float:
    """The published average of the dense model. `model` is its name in a study."""
    table = read(name)
    rows = table[(table["algo"] == "dense") & (table["model"] == MODELS.get(model))]
    return float(rows["average"].iloc[0])


def value(table: pd.DataFrame, column: str, model: str, k: int, algo: str) -> float:
    """The published number of a model, or NaN if the paper has none. `model` is its name in a study."""
    rows = table[(table["model"] == MODELS.get(model)) & (table["k"] == k) & (table["algo"] == algo)]
    return float(rows[column].iloc[0]) if len(rows) else float("nan")
