"""Measure how the cost of a study grows with its cells and its scores; `make bench-growth` runs it.

Prints a row for each kind of work: CPU seconds (or MB) at several sizes, and the exponent of growth, which is 1 if
twice the size costs twice as much. It compares the two largest sizes, because constant costs dominate small ones.
Writes benchmarks/growth_study.json; `make describe` copies the table to docs/engine.md.

python -m benchmarks.growth_study [WORD ...]       only the works whose names contain one of the words
"""

from __future__ import annotations

import logging
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import synthetic_study
from pruning.core import atomic_files
from pruning.core.estimate import Estimate
from pruning.core.mask import Mask
from pruning.core.result import read_done
from pruning.core.units import MEBIBYTE
from pruning.evaluation import digests_of
from pruning.search.journal import Store
from pruning.study import tables

CELLS = (248, 504, 1000, 2000)
SCORES = (1_000, 10_000, 100_000)
JOURNALS = (100, 250, 500, 1000)
RESULTS = Path(__file__).parent / "growth_study.json"
log = logging.getLogger("benchmarks")


def launch(folder: Path, count: int) -> float:
    """CPU seconds of `launch.py -m` over finished cells, start of Python included."""
    synthetic_study.write_done(folder, count)
    before = _children()
    command = [sys.executable, "launch.py", "-m", *synthetic_study.arguments(folder, count)]
    subprocess.run(command, check=True, capture_output=True)
    return _children() - before


def table(folder: Path, count: int) -> float:
    """CPU seconds to print the table of finished cells."""
    synthetic_study.write_done(folder, count)
    done = [read_done(path.parent) for path in sorted(folder.glob("*/result.json"))]
    return _cpu(lambda: tables.results(done))


def keys(folder: Path, count: int) -> float:
    """CPU seconds to identify a calibration file of 20 MB for each cell."""
    path = folder / "text.txt"
    path.write_bytes(b"a" * 20 * MEBIBYTE)
    time.sleep(2.5)  # the digest of a file that has just changed is not kept
    return _cpu(lambda: [digests_of([str(path)]) for _ in range(count)])


def start(folder: Path, scores: int) -> float:
    """CPU seconds until a cell has looked up 435 masks in a store, of 100 scores in each journal."""
    masks = synthetic_study.write_scores(folder, "key", scores // 100, 100)
    return _cpu(lambda: _store(folder).find(masks[:: max(1, scores // 435)]))


def memory(folder: Path, scores: int) -> float:
    """The most MB that a process needs for such a start, imports included."""
    synthetic_study.write_scores(folder, "key", scores // 100, 100)
    command = [sys.executable, "-m", "benchmarks.growth_study", "--start", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def lookup(folder: Path, journals: int) -> float:
    """CPU seconds for 1,000 requests of one unknown mask each, beside journals that are a day old."""
    synthetic_study.write_scores(folder, "key", journals, 10)
    for path in (*folder.glob("*/trace.jsonl"), folder / "scores" / "key"):
        os.utime(path, (time.time() - 86_400,) * 2)
    store = _store(folder)
    store.find([Mask(synthetic_study.N_BLOCKS, (0,))])
    unknown = [Mask(synthetic_study.N_BLOCKS, (1, 29 - n % 20)) for n in range(1000)]
    return _cpu(lambda: [store.find([mask]) for mask in unknown])


WORKS: tuple[tuple[str, tuple[int, ...], Callable[[Path, int], float]], ...] = (
    ("launch -m over finished cells, s", CELLS, launch),
    ("table of finished cells, s", CELLS, table),
    ("digest of a 20 MB text for each cell, s", CELLS, keys),
    ("start of a cell by scores in the store, s", SCORES, start),
    ("memory of this start and of the imports, MB", SCORES, memory),
    ("1,000 unknown masks by journals in the store, s", JOURNALS, lookup),
)


def row(name: str, costs: Mapping[str, float], start: float = 0.0) -> list[str]:
    """The work, its cost at each size, and the exponent of growth from the last size but one to the last.

    The exponent is that of the cost without `start`, which does not depend on the size.
    """
    sizes, spent = [int(size) for size in costs], list(costs.values())
    shown = ", ".join(f"{size:,}: {cost:.3g}" for size, cost in zip(sizes, spent, strict=True))
    exponent = math.log((spent[-1] - start) / (spent[-2] - start)) / math.log(sizes[-1] / sizes[-2])
    return [name, shown, f"{exponent:.2f}"]


def main() -> None:
    """Measure the chosen works and print a row of a Markdown table for each."""
    if sys.argv[1:2] == ["--start"]:
        print(_memory_of_start(Path(sys.argv[2])))  # noqa: T201
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("| work | cost by size | exponent |\n|---|---|---|")
    found: dict[str, dict[str, float]] = atomic_files.read_json(RESULTS)["works"] if RESULTS.exists() else {}
    for name, sizes, measure in WORKS:
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        found[name] = {}
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                found[name][str(size)] = round(measure(Path(folder), size), 4)
        log.info("| %s |", " | ".join(row(name, found[name])))
    works = {name: found[name] for name, *_ in WORKS if name in found}
    atomic_files.write_json(RESULTS, {"device": _device(), "works": works})


def _device() -> str:
    import torch  # not above: it would count as memory of a start

    from benchmarks.clock import device_name

    return device_name(torch.device("cpu"))


def _store(folder: Path) -> Store:
    estimate = Estimate((1.0,) * synthetic_study.TERMS, (0,) * synthetic_study.TERMS)
    store = Store(folder, "key", "own", synthetic_study.N_BLOCKS, estimate=estimate)
    store.claim()
    return store


def _memory_of_start(folder: Path) -> float:
    _store(folder).find([Mask(synthetic_study.N_BLOCKS, (block,)) for block in range(30)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
