"""The measured tables of docs/engine.md, from the files of the benchmarks."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from analysis.figures.style import DASH
from benchmarks import growth_study
from benchmarks.whole import PUBLISHED
from docs.marked_tables import Tables, table
from pruning.core.atomic_files import read_json

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SLOWEST = 4  # figures that have a row of their own in the table of growth
SAME = {True: "yes", False: "no", None: DASH}


def engine() -> str:
    """For each machine that ran `make bench`, what the engine saves on it, and a table with one row for each work."""
    return written(read_json(BENCHMARKS / "results.json"))


def written(rows: list[dict[str, Any]]) -> str:
    """The text of `engine` for rows of results."""
    ordered = sorted(rows, key=lambda row: str(row["device"]))
    machines = [list(part) for _, part in groupby(ordered, key=lambda row: row["device"])]
    return "\n\n".join(f"{_machine(part)}\n\n{_works(part)}" for part in machines)


def _machine(rows: list[dict[str, Any]]) -> str:
    new = [row for row in rows if not _is_old(row)]
    published = [row["ratio"] for row in new if row["work"].startswith(PUBLISHED)]
    plain = [row["ratio"] for row in new if not row["work"].startswith(PUBLISHED)]
    saved = f"{min(plain):.1f} to {max(plain):.1f} times less CPU time than one masked forward pass per mask"
    if published:
        saved += f", and {min(published):.1f} to {max(published):.1f} times less than SLEB's way of scoring"
    speeds = [_speed(rows, precision) for precision in ("bfloat16", "float32")]
    device = f"On one thread of an {rows[0]['device']} ({', '.join(speeds)} in one large product)"
    return f"{device}, the engine uses {saved}:"


def _speed(rows: list[dict[str, Any]], precision: str) -> str:
    measured = [row["peak_gflops"][precision] for row in rows if "peak_gflops" in row]
    low, high = min(measured), max(measured)
    return f"{low:,}{f' to {high:,}' if high > low else ''} GFLOP/s in {precision}"


def _works(rows: list[dict[str, Any]]) -> str:
    heads = ["work", "plain, CPU s", "engine, CPU s", "ratio", "tokens through blocks"]
    heads += ["engine : its products at peak", "same mask"]
    return table(heads, [_work(row) for row in rows])


def _work(row: dict[str, Any]) -> list[str]:
    seconds = [f"{row[name]:,.1f}" for name in ("baseline_cpu_seconds", "cpu_seconds")]
    fewer, same = f"{row['tokens_ratio']:.2f}x fewer", SAME[row["masks_equal"]]
    work = f"{row['work']} *" if _is_old(row) else row["work"]
    return [work, *seconds, f"{row['ratio']:.2f}x", fewer, f"{row['at_peak']:.2f}", same]


def _is_old(row: dict[str, Any]) -> bool:
    """Whether a row is of the benchmark before it settled near ties, which did not keep the speed of a product."""
    return "peak_gflops" not in row


def whole() -> str:
    """For each machine, the CPU seconds of the whole command, one row for each way."""
    rows: list[dict[str, Any]] = read_json(BENCHMARKS / "whole.json")
    heads = ["", "CPU s", "ratio", "blocks removed", "loss"]
    parts = groupby(rows, key=lambda row: str(row["device"]))
    return "\n\n".join(f"{device}:\n\n{table(heads, map(_way, part))}" for device, part in parts)


def _way(row: dict[str, Any]) -> list[str]:
    loss = f"{row['loss']:.4f}" if "loss" in row else DASH  # older results do not have it
    blocks = " ".join(map(str, row["mask"]))
    return [row["way"], f"{row['cpu_seconds']:.1f}", f"{row['ratio']:.2f}x", blocks, loss]


def growth() -> str:
    """The costs of a study by its size: of launching and storing it, then of its figures and its report."""
    study, analysis = (read_json(BENCHMARKS / f"growth_{half}.json") for half in ("study", "analysis"))
    costs: dict[str, dict[str, float]] = {}
    for run in analysis["runs"]:
        costs.setdefault(run["command"], {})[str(run["cells"])] = run["cpu"]
    report = costs.pop("report")
    slowest = sorted(costs, key=lambda name: -list(costs[name].values())[-1])[:SLOWEST]
    rows = [growth_study.row(name, spent) for name, spent in study["works"].items()]
    starts = analysis["starts"]
    rows += [growth_study.row(f"`{name}` by cells, s", costs[name], starts[name]) for name in slowest]
    others = {size: max(costs[name][size] for name in costs if name not in slowest) for size in report}
    rows += [
        growth_study.row("every other figure or table by cells, s, at most", others, min(starts.values()))
    ]
    rows += [growth_study.row("report by cells, s", report, starts["report"])]
    devices = " and ".join(sorted({study["device"], analysis["device"]}))
    return f"{devices}:\n\n{table(['work', 'cost by size', 'exponent'], rows)}"


TABLES: Tables = {"engine": engine, "whole": whole, "growth": growth}
