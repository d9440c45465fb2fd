"""Compare the CPU seconds of the whole command with those of a script that works as SLEB's published code does.

python -m benchmarks.whole       writes benchmarks/whole.json, and keeps the rows of other processors there

Each starts in a new process, loads SmolLM2 and searches greedily for six blocks on 8 windows of 128 tokens. Then it
measures the held-out perplexity and accuracy of the dense and the pruned model. The command also records every loss
and settles near ties; with MLflow, it stores the run. CPU seconds are those of the process and its children, on one
thread.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.records import read_done

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "whole.json"
K, SAMPLES, LENGTH = 6, 8, 128
CELL = [f"k={K}", "algo=greedy", f"calibration.samples={SAMPLES}", f"calibration.length={LENGTH}"]
PUBLISHED = "as SLEB's published code does it"
WAYS = {
    "the command": CELL,
    "the command, lazy rounds": [*CELL, "algo.lazy=0.05"],
    "the command, lazy rounds, no MLflow": [*CELL, "algo.lazy=0.05", "tracker=none"],
}
log = logging.getLogger("benchmarks")


def main() -> None:
    """Time the script and the command, print a line for each, and write the results file."""
    from benchmarks.run import device_name

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    python("-m", "pruning.commands", "fetch", "smollm2")
    slowest, printed = python("-m", "benchmarks.whole", "published")
    found = {PUBLISHED: (slowest, json.loads(printed.splitlines()[-1]))}
    found |= {way: command(settings) for way, settings in WAYS.items()}
    device, rows = device_name(), []
    for way, (seconds, ended) in found.items():
        row = {"way": way, "cpu_seconds": seconds, "ratio": round(slowest / seconds, 2), "device": device}
        rows.append(row | {"mask": ended["mask"], "loss": round(ended["loss"], 4)})
        log.info("%s", rows[-1])
    old: list[dict[str, Any]] = storage.read_json(RESULTS) if RESULTS.exists() else []
    storage.write_json(RESULTS, [*(other for other in old if other["device"] != device), *rows])


def python(*words: str) -> tuple[float, str]:
    """The CPU seconds of `python WORDS` and its child processes, on one thread, and what it printed."""
    variables = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *words],
        env=os.environ | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 1), ended.stdout


def command(settings: list[str]) -> tuple[float, dict[str, Any]]:
    """The CPU seconds of `launch.py` with an empty results folder, and the removed blocks with their loss."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = python("launch.py", *settings, f"paths.results={folder}")
        (cell,) = Path(folder).glob("*/result.json")
        done = read_done(cell.parent)
        return seconds, {"mask": done["mask"]["dropped"], "loss": done["calibration"]["loss"]}


def published() -> dict[str, Any]:
    """Search and measure with one pass of the whole model per window and candidate.

    Returns the removed blocks and their calibration loss in nats per token.
    """
    import torch

    from benchmarks.baselines import Published
    from benchmarks.run import SMOLLM2, text
    from pruning.core.mask import Mask
    from pruning.evaluation.heldout import Heldout

    torch.set_num_threads(1)
    model, windows = replace(SMOLLM2, products="native").load(), text(SAMPLES, LENGTH)
    forward, best = Published(model), Mask(model.info.n_blocks)
    tokens = sum(row.span[1] - row.span[0] for row in windows.rows)
    losses: dict[Mask, float] = {}
    while len(best.dropped) < K:
        candidates = [best.drop(i) for i in best.kept]
        scored = forward.loglikelihoods(windows.rows, candidates)
        losses = {mask: -sum(rows) / tokens for mask, rows, _ in scored}
        best = min(losses, key=losses.__getitem__)
    evaluation = Heldout()
    for name, data in evaluation.data(SMOLLM2.tokenizer).items():
        for mask in (Mask(model.info.n_blocks), best):
            evaluation.measure(forward, name, data, mask)  # only its time is used
    return {"mask": list(best.dropped), "loss": losses[best]}


if __name__ == "__main__":
    if sys.argv[1:] == ["published"]:
        sys.stdout.write(json.dumps(published()) + "\n")
    else:
        main()
