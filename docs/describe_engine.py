"""Write the tables of measurements in docs/engine.md and docs/algorithms.md from the files of the benchmarks.

python -m docs.describe_engine       `make describe` runs it; a test fails if a page is out of date
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs import marked_tables
from docs.marked_tables import table
from pruning.core.atomic_files import read_json

ROOT = Path(__file__).parents[1]
HEADS = (
    "work",
    "plain, CPU s",
    "engine, CPU s",
    "ratio",
    "tokens through blocks",
    "engine : products at peak",
)


def works() -> str:
    """The rows of benchmarks/results.json, and which machine measured them."""
    rows = _measured("results")
    devices = sorted({row["device"] for row in rows})
    speeds = (f"{_range(rows, name)} GFLOP/s in one large {name} product" for name in ("bfloat16", "float32"))
    return "\n".join(
        [
            f"One thread of {', '.join(devices)}: {', '.join(speeds)}.",
            "",
            table(HEADS, [_work(row) for row in rows]),
        ]
    )


def _work(row: Mapping[str, Any]) -> list[str]:
    seconds = (f"{row[name]:,.1f}" for name in ("baseline_cpu_seconds", "cpu_seconds"))
    other = "" if row["masks_equal"] else " (another mask)"
    ratios = (f"{row['ratio']:.2f}x", f"{row['tokens_ratio']:.2f}x fewer", f"{row['at_peak']:.2f}")
    return [f"{row['work']}{other}", *seconds, *ratios]


def _range(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    speeds = [row["peak_gflops"][name] for row in rows]
    least, most = min(speeds), max(speeds)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def races() -> str:
    """The rows of benchmarks/racing.json."""
    heads = ["windows", "k", "`racing.delta`", "`algo.lazy`", "same mask", "evaluations paid", "work saved"]
    return table(heads, [_race(row) for row in _measured("racing")])


def _race(row: Mapping[str, Any]) -> list[str]:
    windows = f"{row['samples']}, {row['windows']}"
    same = f"{round(row['masks_equal'] * row['seeds'])} of {row['seeds']}"
    lazy = "off" if row["lazy"] is None else str(row["lazy"])
    saved = f"{row['work_ratio']:.2f}x"
    return [windows, str(row["k"]), str(row["delta"]), lazy, same, f"{row['evaluations_paid']:.0%}", saved]


def _measured(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(ROOT / "benchmarks" / f"{name}.json")
    return rows


PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    ROOT / "docs" / "engine.md": {"works": works},
    ROOT / "docs" / "algorithms.md": {"races": races},
}


def filled(page: Path) -> str:
    """The text of a page with its tables written again. If a mark names an unknown table, raises KeyError."""
    return marked_tables.filled(page.read_text(encoding="utf-8"), lambda name: PAGES[page][name]())


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
