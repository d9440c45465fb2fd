"""The table of races in docs/algorithms.md, from benchmarks/racing.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docs.marked_tables import Tables, table
from pruning.core.atomic_files import read_json

ROOT = Path(__file__).parents[1]
CHOSEN = {"shuffled": "orders", "drawn": "draws"}  # by the name of the function that chooses a seed's windows


def races() -> str:
    """One row for each number of samples and k, each risk, with and without lazy rounds."""
    heads = [
        "windows",
        "k",
        "`racing.delta`",
        "`algo.lazy`",
        "same mask in",
        "evaluations paid",
        "work saved",
    ]
    rows: list[dict[str, Any]] = read_json(ROOT / "benchmarks" / "racing.json")
    return table(heads, [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> list[str]:
    same = f"{round(row['masks_equal'] * row['seeds'])} of {row['seeds']} {CHOSEN[row['windows']]}"
    lazy = "off" if row["lazy"] is None else str(row["lazy"])
    paid, saved = f"{100 * row['evaluations_paid']:.0f} %", f"{row['work_ratio']:.2f}x"
    return [str(row["samples"]), str(row["k"]), str(row["delta"]), lazy, same, paid, saved]


TABLES: Tables = {"races": races}
