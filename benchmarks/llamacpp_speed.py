"""Time GGUF files in llama.cpp: python -m benchmarks.llamacpp_speed OUT.json FILE.gguf ...

The files take turns, so that a disturbance affects all of them. Needs the extra `llamacpp`.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.evaluation.speed import machine

PROMPT, NEW, REPEATS = 256, 32, 11  # tokens, tokens, timed turns after one that is not timed
log = logging.getLogger(__name__)


def main() -> None:
    """Write each file's size and median tokens per second, at batch size 1 on all cores of this process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from llama_cpp import Llama

    out, *paths = sys.argv[1:]
    cores = len(os.sched_getaffinity(0))
    models = {
        path: Llama(path, n_ctx=2 * PROMPT, n_threads=cores, n_threads_batch=cores, verbose=False)
        for path in paths
    }
    rates: dict[str, list[tuple[float, float]]] = {path: [] for path in paths}
    for _ in range(1 + REPEATS):
        for path, model in models.items():
            rates[path].append(_timed(model))
    found = {}
    for path, measured in rates.items():
        prompt, new = (statistics.median(column) for column in zip(*measured[1:], strict=True))
        size = Path(path).stat().st_size
        found[Path(path).stem] = {"bytes": size, "prompt_per_second": prompt, "new_per_second": new}
        log.info("%s: %.1f MB, %.0f prompt tokens/s, %.1f new tokens/s", path, size / 1e6, prompt, new)
    how = {"device": machine(), "cores": cores, "prompt": PROMPT, "new": NEW, "repeats": REPEATS}
    storage.write_json(Path(out), {"how": how, "files": found})


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
