"""Time one cell alone and on a busy machine, for several ways in which OpenMP's threads wait for each other.

python -m benchmarks.threads [BUSY]        BUSY processes that only compute; default 2. Writes benchmarks/threads.json

For each way, the same cell (one-shot on SmolLM2, 30 masks on 8 windows of 64 tokens) runs twice, each time in a new
process: first alone, and then beside the busy processes. Times are wall seconds of the search, without loading the
model.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core import storage
from pruning.core.records import read_done

RESULTS = Path(__file__).parent / "threads.json"
SPIN = "GOMP_SPINCOUNT"
WAYS = {
    "300,000 spins, the default of OpenMP": {SPIN: "300000"},
    "1,000 spins, as commands set it": {SPIN: "1000"},
    "no spins": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
CELL = ["algo=one_shot", "k=3", "calibration.samples=8", "calibration.length=64", "tracker=none"]
EVALUATION = ["eval.samples=1", "eval.length=32", "eval.items=1"]
log = logging.getLogger("benchmarks")


def seconds(settings: dict[str, str]) -> float:
    """Wall seconds of the cell's search, with `settings` as environment variables."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "launch.py", *CELL, *EVALUATION, f"paths.results={folder}"]
        subprocess.run(command, env=environment | settings, check=True, capture_output=True)
        (cell,) = Path(folder).glob("*/result.json")
        return read_done(cell.parent)["search"]["seconds"]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """A context in which `count` other processes compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Time the cell's search with each entry of `WAYS`, print a line for each, and write the results file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    count = int(sys.argv[1]) if sys.argv[1:] else 2
    rows = []
    for name, settings in WAYS.items():
        alone = seconds(settings)
        with busy(count):
            beside = seconds(settings)
        rows.append({"threads": name, "alone": round(alone, 1), f"beside {count} busy": round(beside, 1)})
        log.info("%s", json.dumps(rows[-1]))
    storage.write_json(RESULTS, {"cores": os.cpu_count(), "rows": rows})


if __name__ == "__main__":
    main()
