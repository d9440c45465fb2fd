"""Compare the time of the engine with that of one forward pass per mask; `make bench` runs it.

Both methods run in one process and alternate after every search. This benchmark compares the masks of both methods,
and their CPU seconds over all threads. It writes benchmarks/results.json.

python -m benchmarks.run [WORD ...]       only the works whose names contain one of the words
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain import Plain
from benchmarks.works import WORKS, Work
from pruning.algo import Algo
from pruning.core import atomic_files
from pruning.core.mask import Mask, Space
from pruning.engine.forward import Forward
from pruning.objective import Calibrated
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores, Store
from pruning.search.racing import Racing

RESULTS = Path(__file__).parent / "results.json"
log = logging.getLogger("benchmarks")


@dataclass
class Side:
    """One of the two methods: its engine, the folder of its scores, and the CPU seconds that its searches used."""

    forward: Forward
    folder: Path
    share: bool
    seconds: float = 0.0
    cells: int = 0

    def search(self, algo: Algo, space: Space, losses: Any) -> Mask:
        """Run one search as a separate cell."""
        self.cells += 1
        name = f"cell{self.cells}"
        (self.folder / name).mkdir(parents=True)
        store = Store(self.folder, "key", name, space.n_blocks, self.share)
        store.claim()
        journal = Journal.open(self.folder / name / "trace.jsonl", space.n_blocks)
        started = time.process_time()
        solution = solve(
            Problem(algo, space, 0, Racing()), losses, KnownScores(journal, store), lambda *_: None
        )
        self.seconds += time.process_time() - started
        return solution.score.mask


def measure(work: Work) -> dict[str, Any]:
    """Run each search of a work with both methods. Returns the work's row of results."""
    model, samples = work.model(), work.samples()
    with tempfile.TemporaryDirectory() as scratch:
        plain = Side(Plain(model, work.baseline_tokens), Path(scratch) / "plain", share=False)
        engine = Side(Forward(model, work.batch_tokens), Path(scratch) / "engine", share=work.shared)
        sides = [(side, Calibrated(work.objective, side.forward, samples)) for side in (plain, engine)]
        equal = True
        for algo, k in work.searches:
            space = Space(model.info.n_blocks, k)
            masks = [side.search(algo, space, losses) for side, losses in sides]
            equal &= masks[0] == masks[1]
    return {
        "work": work.name,
        "baseline_cpu_seconds": round(plain.seconds, 2),
        "cpu_seconds": round(engine.seconds, 2),
        "ratio": round(plain.seconds / engine.seconds, 2),
        "forwards_ratio": round(plain.forward.cost.block_forwards / engine.forward.cost.block_forwards, 2),
        "masks_equal": equal,
        "target": work.target,
    }


def matmul_peak(dtype: torch.dtype, rows: int = 2048, width: int = 2048) -> float:
    """The GFLOP/s of this machine in one large matrix product; a multiply-add counts as two operations."""
    a, b = torch.randn(rows, width).to(dtype), torch.randn(width, width).to(dtype)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * width / best / 1e9


def main() -> None:
    """Run the chosen works and print a line for each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = sys.argv[1:]
    peaks = ", ".join(f"{str(d)[6:]} {matmul_peak(d):.0f}" for d in (torch.float32, torch.bfloat16))
    log.info("threads %d, matmul peak in GFLOP/s: %s", torch.get_num_threads(), peaks)
    log.info("%9s %9s %7s %7s %9s  %s", "plain s", "engine s", "ratio", "target", "forwards", "work")
    rows: list[dict[str, Any]] = atomic_files.read_json(RESULTS) if words and RESULTS.exists() else []
    for work in WORKS:
        if words and not any(word in work.name for word in words):
            continue
        row = measure(work)
        columns = ("baseline_cpu_seconds", "cpu_seconds", "ratio", "target", "forwards_ratio", "work")
        log.info("%9.1f %9.1f %6.2fx %6.1fx %8.2fx  %s", *(row[column] for column in columns))
        if not row["masks_equal"]:
            log.warning("the masks differ: %s", work.name)
        rows = [*(old for old in rows if old["work"] != work.name), row]
        atomic_files.write_json(RESULTS, rows)


if __name__ == "__main__":
    main()
