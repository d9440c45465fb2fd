"""Time every figure, every table and the report on synthetic studies of growing size.

python -m benchmarks.growth_analysis [CELLS...]        default: 500 1000 2000 5000. Writes growth_analysis.json

A study grows by draws, which is the hard way: the groups that are compared, and the strata whose variance is
divided, grow with it. Figures of sub-layers and of healing read copies of archived cells (`growth_copies.py`). Each
command runs in a fresh process. CPU seconds are those of the process, so that other work on the machine matters
little. The exponent is the slope of log CPU seconds over log cells, by least squares, after the CPU seconds of the
command's start (its `--help`) are subtracted: 1 is linear, 2 quadratic. Much of the work of a small study does not
depend on its size (drawing, 999 permutations), so the table also has the slope of the last step alone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import growth_copies
from benchmarks.clock import device_name
from pruning.core import atomic_files
from tests.helpers.analysis_grid import Study, write

RESULTS = Path(__file__).parent / "growth_analysis.json"
ROOT = Path(__file__).parents[1]
SIZES = (500, 1000, 2000, 5000)
COPIED = {"fig9_units": "study_units", "fig10_healing": "study_healing"}  # the archive whose cells are copied
COMMANDS = (*sorted(p.stem for p in (ROOT / "analysis").glob("[ft]*_*.py")), "report")
log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Run:
    """What one command took on a study of `cells` cells. `megabytes` is the size of the files that it wrote."""

    command: str
    cells: int
    cpu: float
    wall: float
    peak_megabytes: float
    megabytes: float


def timed(command: str, arguments: list[str]) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak memory (megabytes) of a command in a fresh process."""
    started = time.perf_counter()
    words = [sys.executable, "-m", f"analysis.{command}", *arguments]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}.")
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024


def measure(cells: int, folder: Path) -> list[Run]:
    """Run every command on a study of about this many cells."""
    seeds = max(2, round(cells / len(write(folder / "one", Study(seeds=(0,), lost=0, broken=0)))))
    written = len(write(folder / "study", Study(seeds=tuple(range(seeds)))))
    runs = []
    for command in COMMANDS:
        out, results = folder / "out" / command, folder / COPIED.get(command, "study")
        if command in COPIED:
            growth_copies.write(results, COPIED[command], written)
        cpu, wall, peak = timed(command, ["--results", f"{results}", "--out", f"{out}"])
        size = sum(path.stat().st_size for path in out.glob("*.*")) / 1e6
        runs.append(Run(command, written, round(cpu, 1), round(wall, 1), round(peak), round(size, 1)))
        log.info("%-22s %5d cells  %6.1f CPU s  %6.1f s", command, written, cpu, wall)
    return runs


def exponent(runs: list[Run], start: float) -> float:
    """The slope of log CPU seconds over log cells, without the seconds of the command's start."""
    spent = np.log([max(run.cpu - start, 0.01) for run in runs])
    return float(np.polyfit(np.log([run.cells for run in runs]), spent, 1)[0])


def rows(runs: list[Run], starts: dict[str, float]) -> list[str]:
    """A Markdown table: CPU seconds of each command by number of cells, with the exponent."""
    sizes = sorted({run.cells for run in runs})
    head = [
        *(f"{size:,} cells" for size in sizes),
        "exponent",
        "last step",
        "wall",
        "memory, MB",
        "files, MB",
    ]
    lines = [f"| CPU seconds | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for command in COMMANDS:
        own = sorted((run for run in runs if run.command == command), key=lambda run: run.cells)
        shown = [f"{run.cpu:.1f}" for run in own]
        powers = [
            f"{exponent(part, starts[command]):.2f}" if len(own) > 1 else "" for part in (own, own[-2:])
        ]
        last = [f"{own[-1].wall:.0f} s", f"{own[-1].peak_megabytes:.0f}", f"{own[-1].megabytes:.1f}"]
        lines.append(f"| {' | '.join([command, *shown, *powers, *last])} |")
    return lines


def main() -> None:
    """Measure every size, print the table, and write the results file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    runs: list[Run] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            runs += measure(size, Path(folder))
    starts = {command: round(timed(command, ["--help"])[0], 1) for command in COMMANDS}
    for line in rows(runs, starts):
        log.info("%s", line)
    record = {
        "device": device_name(torch.device("cpu")),
        "starts": starts,
        "runs": [asdict(run) for run in runs],
    }
    atomic_files.write_json(RESULTS, record)


if __name__ == "__main__":
    main()
