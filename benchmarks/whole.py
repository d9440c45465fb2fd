"""Compare the CPU seconds of a whole run of `launch.py` with those of a script that scores as SLEB's code does.

python -m benchmarks.whole [WORD ...]     only the sizes whose names contain one of the words

Command and script each start in a new process, load SmolLM2 and search greedily on windows of 128 tokens. Then
both measure held-out perplexity and accuracy of the dense and the pruned model. The command also records every
loss, settles near ties and stores the run in MLflow. Without evaluation, the script's seconds end with its search,
and the command measures one window and one item. CPU seconds are those of a process and its children, on one
thread. In benchmarks/whole.json, this processor's rows are replaced, and those of others are kept.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.core.records import read_done

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "whole.json"
# For each size: how many windows, how many blocks to remove, and settings with which the search is fastest.
SIZES = {
    "2 x 128 tokens, k=2": (2, 2, ["near_ties.most=0"]),
    "16 x 128 tokens, k=6": (16, 6, ["near_ties.most=0", "racing.delta=0.05", "algo.lazy=0.05"]),
}
SCRIPT, BARE = "SLEB's published way", "without evaluation"
WAYS = {f"the command as it comes, {BARE}": ["eval.samples=1", "eval.items=1"], "the command as it comes": []}
log = logging.getLogger("benchmarks")


def main() -> None:
    """Time the script and the command at the chosen sizes, print a line for each, and write the results file."""
    from benchmarks.run import device_name, rewrite

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    python("-m", "pruning.commands", "fetch", "smollm2")
    device, rows, words = device_name(), [], sys.argv[1:] or [""]
    for size in (size for size in SIZES if any(word in size for word in words)):
        slowest, printed = python("-m", "benchmarks.whole", "script", size)
        script = json.loads(printed.splitlines()[-1])
        parts = {f"{SCRIPT}, the search alone": "search", f"{SCRIPT}, {BARE}": "searched"}
        found = {name: (script[part], script) for name, part in parts.items()} | {SCRIPT: (slowest, script)}
        ways = WAYS | {"the command, best of all": SIZES[size][2]}
        found |= {way: command(size, settings) for way, settings in ways.items()}
        for way, (seconds, ended) in found.items():
            row = {"size": size, "way": way, "cpu_seconds": seconds, "ratio": round(slowest / seconds, 2)}
            rows.append(row | {"mask": ended["mask"], "loss": round(ended["loss"], 4), "device": device})
            log.info("%s", rows[-1])
    rewrite(RESULTS, rows, ("size",), [(size,) for size in SIZES])


def python(*words: str) -> tuple[float, str]:
    """Run `python WORDS` on one thread. Returns the CPU seconds of it and its children, and its output."""
    more = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    before = sum(os.times()[2:4])  # of ended children
    printed = subprocess.check_output([sys.executable, *words], env=os.environ | more, cwd=ROOT, text=True)
    return round(sum(os.times()[2:4]) - before, 1), printed


def command(size: str, settings: list[str]) -> tuple[float, dict[str, Any]]:
    """Run `launch.py` with an empty results folder. Returns its CPU seconds, the removed blocks and their loss."""
    samples, k, _ = SIZES[size]
    cell = [f"k={k}", "algo=greedy", f"calibration.samples={samples}", "calibration.length=128", *settings]
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = python("launch.py", *cell, f"paths.results={folder}")
        (path,) = Path(folder).glob("*/result.json")
        done = read_done(path.parent)
        return seconds, {"mask": done["mask"]["dropped"], "loss": done["calibration"]["loss"]}


def script(size: str) -> dict[str, Any]:
    """Search and measure with one forward pass of the whole model for each window and candidate.

    Returns the removed blocks, their calibration loss in nats per token, the CPU seconds of the search, and those
    of the process up to the end of the search.
    """
    import torch

    from benchmarks.baselines import ONE_WINDOW, Plain
    from benchmarks.run import SMOLLM2, text
    from pruning.core.mask import Mask
    from pruning.evaluation.heldout import Heldout

    torch.set_num_threads(1)
    samples, k, _ = SIZES[size]
    model, windows = replace(SMOLLM2, products="native").load(), text(samples, 128)
    forward, best = Plain(model, ONE_WINDOW), Mask(model.info.n_blocks)
    tokens = sum(row.span[1] - row.span[0] for row in windows.rows)
    losses: dict[Mask, float] = {}
    started = time.process_time()
    while len(best.dropped) < k:
        found = forward.loglikelihoods(windows.rows, [best.drop(i) for i in best.kept])
        losses = {mask: -sum(rows) / tokens for mask, rows, _ in found}
        best = min(losses, key=losses.__getitem__)
    searched = time.process_time()
    evaluation = Heldout()
    for name, data in evaluation.data(SMOLLM2.tokenizer).items():
        for mask in (best.dense, best):
            evaluation.measure(forward, name, data, mask)  # only the time that this takes is used
    seconds = {"search": round(searched - started, 1), "searched": round(searched, 1)}
    return {"mask": list(best.dropped), "loss": losses[best], **seconds}


if __name__ == "__main__":
    if sys.argv[1:2] == ["script"]:
        sys.stdout.write(json.dumps(script(sys.argv[2])) + "\n")
    else:
        main()
