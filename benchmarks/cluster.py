"""Measure what a grid of many cells costs the command that submits it. Run this on an otherwise idle cluster.

python -m benchmarks.cluster FOLDER [CELLS] [--real]

Submits CELLS (default 500) cells of a tiny model, waits for them and collects them into an SQLite file. The jobs only
copy the result of one cell that was computed before, because a real cell spends four CPU seconds on imports; with
`--real`, they compute. Prints one line of JSON; `bash tests/slurm/cluster.sh up` makes a cluster to try it on.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.command_cost import python
from pruning.core import storage
from pruning.launcher.cell_state import StateName, cell_states
from pruning.launcher.submission import submissions

INSTANT = Path(__file__).with_name("instant.py")
TINY = [
    "model=local", "model.name=tiny", "model.dtype=float32", "algo=one_shot", "k=1,2", "calibration.samples=4",
    "calibration.length=24", "eval.samples=2", "eval.length=32", "eval.items=6", "model.resources.gpus_per_rank=0",
    "model.resources.cpus_per_rank=1", "model.resources.memory_gb=0.9", "model.resources.minutes=10",
]  # fmt: skip
log = logging.getLogger("benchmarks")


def main() -> None:
    """Measure and write the costs for the command-line arguments."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = [word for word in sys.argv[1:] if word != "--real"]
    if not words:
        raise SystemExit(__doc__)
    folder, cells = Path(words[0]).resolve(), int(words[1]) if len(words) > 1 else 500
    costs = measure(folder, cells, "--real" in sys.argv)
    storage.write_json(folder / "measured.json", costs)
    log.info("%s", json.dumps(costs))


def measure(folder: Path, cells: int, real: bool) -> dict[str, Any]:
    """Submit the cells, wait for them and collect them. Returns the costs of these steps."""
    tiny_model(folder / "model")
    results, place = folder / "results", f"model.path={folder / 'model'}"
    one = [word.replace("k=1,2", "k=1") for word in TINY]
    python("launch.py", *one, place, f"paths.results={folder / 'first'}", "tracker=none")
    (template,) = (folder / "first").glob("*/result.json")
    jobs = [] if real else [f'launcher.python="{sys.executable} -S {INSTANT} {template.parent}"']
    grid = [*TINY, place, f"seed=range({cells // 2})", f"paths.results={results}", "launcher=slurm", *jobs]
    submitting = python("launch.py", "-m", *grid, "launcher.wait=false")
    running = wait(results)
    again = python("launch.py", "-m", *grid, "tracker=none")
    collecting = python("-m", "pruning.cli", "track", str(results))
    records = list(submissions(results))
    # The seconds from the write of a submission's record to that of its job names.
    times = [
        [(record.folder / name).stat().st_mtime for name in ("submission.json", "jobs.json")]
        for record in records
    ]
    sbatch = sum(ended - begun for begun, ended in times)
    return {
        "cells": sum(len(record.jobs) for record in records),
        "calls of sbatch": len(records),
        "submission, s a cell": round(submitting.seconds / cells, 4),
        "submission, CPU s a cell": round(submitting.cpu / cells, 4),
        "of it sbatch and its files, s a cell": round(sbatch / cells, 4),
        "memory of the command, MiB": round(submitting.memory),
        "the jobs, s": round(running, 1),
        "the same command when all is done, s": round(again.seconds, 1),
        "collection, s a cell": round(collecting.seconds / cells, 4),
        "collection, CPU s a cell": round(collecting.cpu / cells, 4),
        "memory of the collection, MiB": round(collecting.memory),
    }


def wait(results: Path) -> float:
    """Wait until no cell is in flight. Returns the seconds waited. Exits if a cell is then not done."""
    started = time.perf_counter()
    while any(cell.state.in_flight for cell in cell_states(results).values()):
        time.sleep(2)
    if bad := [cell for cell in cell_states(results).values() if cell.state is not StateName.DONE]:
        raise SystemExit(f"{len(bad)} cells are not done, such as {bad[0]}")
    return time.perf_counter() - started


def tiny_model(folder: Path) -> None:
    """Write a random Llama of six blocks with a byte tokenizer, in the format that `model=local` reads."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pruning.calibration.sources import pydoc

    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(pydoc("calibration"), vocab_size=512, show_progress=False)
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main()
