"""Time GGUF files in llama.cpp: python -m benchmarks.llamacpp_speed OUT.json FILE.gguf ...

The files take turns, so that a disturbance affects all of them. Needs the extra `llamacpp`.
"""

from __future__ import annotations

import logging
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.evaluation.speed import machine

PROMPT, NEW, REPEATS = 256, 32, 11  # tokens, tokens, timed turns after one that is not timed
CORES = len(os.sched_getaffinity(0))
log = logging.getLogger(__name__)


def main() -> None:
    """Write each file's size, peak memory and median tokens per second, at batch size 1 on all cores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out, *paths = sys.argv[1:]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        memory = dict(zip(paths, alone.map(_memory, paths), strict=True))
    models = [_loaded(path) for path in paths]
    turns = [[_timed(model) for model in models] for _ in range(1 + REPEATS)]
    found = {}
    for path, *measured in zip(paths, *turns[1:], strict=True):
        prompt, new = (statistics.median(column) for column in zip(*measured, strict=True))
        row = {"bytes": Path(path).stat().st_size, "memory": memory[path], "prompt_per_second": prompt}
        found[Path(path).stem] = row | {"new_per_second": new}
        log.info("%s: %s", path, found[Path(path).stem])
    how = {"device": machine(), "cores": CORES, "prompt": PROMPT, "new": NEW, "repeats": REPEATS}
    storage.write_json(Path(out), {"how": how, "files": found})


def _loaded(path: str) -> Any:
    threads = {"n_threads": CORES, "n_threads_batch": CORES}
    return import_module("llama_cpp").Llama(path, n_ctx=2 * PROMPT, verbose=False, **threads)


def _memory(path: str) -> int:
    """By how many bytes the first turn raises the peak memory of this process, which must be new."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _timed(_loaded(path))
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _timed(model: Any) -> tuple[float, float]:
    """Prompt tokens read and new tokens generated per second. Any tokens will do: they do not affect the time."""
    model.reset()
    started = time.perf_counter()
    model.eval(list(range(100, 100 + PROMPT)))
    read = time.perf_counter()
    for token in range(NEW):
        model.eval([100 + token])
    return PROMPT / (read - started), NEW / (time.perf_counter() - read)


if __name__ == "__main__":
    main()
