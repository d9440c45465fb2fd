"""Time every figure, every table and the report on synthetic studies of growing size.

python -m benchmarks.growth [CELLS...]        default: 500 1000 2000 5000. Writes growth_analysis.json

A study grows by draws, which is the hard way: the groups that are compared, and the strata whose variance is
divided, grow with it. Figures of sub-layers and of healing read copies of archived cells (`growth_copies.py`). Each
command runs in a fresh process. CPU seconds are those of the process, so that other work on the machine matters
little. The exponent is the slope of log CPU seconds over log cells, by least squares, after the CPU seconds of the
command's start (its `--help`) are subtracted: 1 is linear, 2 quadratic. Much of the work of a small study does not
depend on its size (drawing, 999 permutations), so the table also has the slope of the last step alone.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from analysis.data.archive import unpack
from benchmarks.run import device_name
from hydra_plugins.grid_launcher.composer import Composer
from pruning.config.app import register
from pruning.config.compose import cell_of
from pruning.config.groups import CONF
from pruning.core import storage
from pruning.core.mask import Mask
from pruning.core.records import FOLDER, NAME, DoneResult, read_done
from pruning.core.records import NAME as RESULT
from pruning.core.scoring import NAME as TRACE
from pruning.core.scoring import Estimate, Score
from pruning.core.units import MEBIBYTE
from pruning.evaluation import digests_of
from pruning.runs.cell import Cell
from pruning.search.journal import Store
from pruning.study import text_tables
from pruning.study.grid import note_study
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
            write_copies(results, COPIED[command], written)
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
    storage.write_json(RESULTS, record)


if __name__ == "__main__":
    main()


# Write a large study of sub-layers or of healing: copies of archived cells, with other draws and masks.

GROWTH_COPIES_ROOT = Path(__file__).parents[1]


def write_copies(results: Path, study: str, cells: int) -> None:
    """Fill a results folder with at least the cells of an archived study, and copies of them up to `cells`.

    Each copy is another draw, and its mask is moved by some blocks. So there are as many distinct masks as a model
    has blocks, times those of the study. Measurements are those of the cell that was copied.
    """
    unpack(GROWTH_COPIES_ROOT / "analysis" / study / f"{study}.tar.xz", results)
    originals = sorted(path.parent for path in results.glob(f"*/{NAME}"))
    for number in range(cells - len(originals)):
        _copy(originals[number % len(originals)], 1 + number // len(originals))


def _copy(cell: Path, number: int) -> None:
    result: dict[str, Any] = json.loads((cell / NAME).read_text(encoding="utf-8"))
    start, _, digest = cell.name.rpartition("-")
    copy = cell.parent / f"{start}-{(int(digest, 16) + number) % 16**8:08x}"
    result["cell"] = copy.name
    for seeded in (result["config"], result["config"]["calibration"], result["calibration"]):
        seeded["seed"] += number
    mask = Mask.from_json(result["mask"])
    step = number * mask.n_units // mask.n_blocks
    moved = tuple((unit + step) % mask.n_units for unit in mask.dropped)
    result["mask"] = Mask(mask.n_blocks, moved, mask.unit).to_json()
    copy.mkdir()
    (copy / NAME).write_text(json.dumps(result), encoding="utf-8")
    if (cell / FOLDER).exists():
        shutil.copytree(cell / FOLDER, copy / FOLDER)


# Measure how the cost of a study grows with its cells and its scores; `make bench-growth` runs it.
#
# Prints a row for each kind of work: CPU seconds (or MB) at several sizes, and the exponent of growth, which is 1 if
# twice the size costs twice as much. It compares the two largest sizes, because constant costs dominate small ones.
# Writes benchmarks/growth_study.json; `make describe` copies the table to docs/engine.md.
#
# python -m benchmarks.growth [WORD ...]       only the works whose names contain one of the words

CELLS = (248, 504, 1000, 2000)
SCORES = (1_000, 10_000, 100_000)
JOURNALS = (100, 250, 500, 1000)
STUDY_RESULTS = Path(__file__).parent / "growth_study.json"


def launch(folder: Path, count: int) -> float:
    """CPU seconds of `launch.py -m` over finished cells, start of Python included."""
    write_done(folder, count)
    before = _children()
    command = [sys.executable, "launch.py", "-m", *arguments(folder, count)]
    subprocess.run(command, check=True, capture_output=True)
    return _children() - before


def table(folder: Path, count: int) -> float:
    """CPU seconds to print the table of finished cells."""
    write_done(folder, count)
    done = [read_done(path.parent) for path in sorted(folder.glob("*/result.json"))]
    return _cpu(lambda: text_tables.results(done))


def keys(folder: Path, count: int) -> float:
    """CPU seconds to identify a calibration file of 20 MB for each cell."""
    path = folder / "text.txt"
    path.write_bytes(b"a" * 20 * MEBIBYTE)
    time.sleep(2.5)  # the digest of a file that has just changed is not kept
    return _cpu(lambda: [digests_of([str(path)]) for _ in range(count)])


def start(folder: Path, scores: int) -> float:
    """CPU seconds until a cell has looked up 435 masks in a store, of 100 scores in each journal."""
    masks = write_scores(folder, "key", scores // 100, 100)
    return _cpu(lambda: _store(folder).find(masks[:: max(1, scores // 435)]))


def memory(folder: Path, scores: int) -> float:
    """The most MB that a process needs for such a start, imports included."""
    write_scores(folder, "key", scores // 100, 100)
    command = [sys.executable, "-m", "benchmarks.growth", "--start", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def lookup(folder: Path, journals: int) -> float:
    """CPU seconds for 1,000 requests of one unknown mask each, beside journals that are a day old."""
    write_scores(folder, "key", journals, 10)
    for path in (*folder.glob("*/trace.jsonl"), folder / "scores" / "key"):
        os.utime(path, (time.time() - 86_400,) * 2)
    store = _store(folder)
    store.find([Mask(N_BLOCKS, (0,))])
    unknown = [Mask(N_BLOCKS, (1, 29 - n % 20)) for n in range(1000)]
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


def study() -> None:
    """Measure the chosen works and print a row of a Markdown table for each."""
    if sys.argv[1:2] == ["--start"]:
        print(_memory_of_start(Path(sys.argv[2])))  # noqa: T201
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("| work | cost by size | exponent |\n|---|---|---|")
    found: dict[str, dict[str, float]] = (
        storage.read_json(STUDY_RESULTS)["works"] if STUDY_RESULTS.exists() else {}
    )
    for name, sizes, measure in WORKS:
        if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
            continue
        found[name] = {}
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                found[name][str(size)] = round(measure(Path(folder), size), 4)
        log.info("| %s |", " | ".join(row(name, found[name])))
    works = {name: found[name] for name, *_ in WORKS if name in found}
    storage.write_json(STUDY_RESULTS, {"device": _device(), "works": works})


def _device() -> str:
    import torch  # not above: it would count as memory of a start

    from benchmarks.run import device_name

    return device_name(torch.device("cpu"))


def _store(folder: Path) -> Store:
    estimate = Estimate((1.0,) * TERMS, (0,) * TERMS)
    store = Store(folder, "key", "own", N_BLOCKS, estimate=estimate)
    store.claim()
    return store


def _memory_of_start(folder: Path) -> float:
    _store(folder).find([Mask(N_BLOCKS, (block,)) for block in range(30)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    study()


# Write the files of a large study without computing anything: finished cells, and journals full of scores.

N_BLOCKS = 30
OPTIONS = {"algo": "one_shot,greedy", "objective": "perplexity,margin", "ratio": "0.1,0.2"}
TERMS = 16  # samples of a score


def arguments(results: Path, count: int) -> list[str]:
    """The arguments of `launch.py -m` for a grid of `count` cells, a multiple of 8."""
    swept = [f"{name}={values}" for name, values in OPTIONS.items()]
    return [*swept, f"seed=range({count // 8})", f"paths.results={results}", "tracker=none"]


def write_done(results: Path, count: int) -> None:
    """Write a finished result for each cell of `arguments(results, count)`."""
    cells = list(_cells(results, count))
    for cell in cells:
        cell.folder.mkdir(parents=True)
        (cell.folder / RESULT).write_text(json.dumps(_result(cell)))  # without the wait for the disk
    note_study(cells)


def _cells(results: Path, count: int) -> Iterator[Cell]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
        options = itertools.product(*(values.split(",") for values in OPTIONS.values()))
        for number, (values, seed) in enumerate(itertools.product(options, range(count // 8))):
            words = [f"{name}={value}" for name, value in zip(OPTIONS, values, strict=True)]
            words += [f"seed={seed}", f"paths.results={results}", "tracker=none"]
            yield cell_of(*composer.compose(number, words))


def _result(cell: Cell) -> DoneResult:
    measured = {"ppl/heldout": 16.9, "acc/heldout": 0.5, "acc/heldout/stderr": 0.03}
    search = {"algo": cell.choices.algo, "k": 3, "ratio": 0.1, "stopped": "3 blocks were removed"}
    result: dict[str, Any] = {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": {"name": cell.model.name, "n_blocks": N_BLOCKS, "dtype": cell.model.dtype},
        "mask": Mask(N_BLOCKS, tuple(random.Random(cell.seed).sample(range(N_BLOCKS), 3))).to_json(),
        "calibration": {
            "objective": cell.choices.objective,
            **{"source": "pydoc", "samples": TERMS, "length": 128, "loss": 3.5, "dense_loss": 3.3},
        },
        "search": search | {"evaluations_asked": 30.0, "evaluations_paid": 30.0, "seconds": 1.0},
        "evaluation": {"dense": measured, "pruned": measured, "files": {}},
        "config": dict(cell.config),
    }
    return cast(DoneResult, result)


def write_scores(results: Path, key: str, cells: int, each: int) -> list[Mask]:
    """Write the journals of `cells` cells with `each` scores, registered under `key`; returns the scored masks."""
    rng = random.Random(0)
    masks = [Mask(N_BLOCKS, blocks) for blocks in _blocks(cells * each)]
    (results / "scores" / key).mkdir(parents=True)
    for number in range(cells):
        name = f"cell-{number:05d}"
        (results / "scores" / key / name).touch()
        (results / name).mkdir()
        lines = []
        for mask in masks[number * each : (number + 1) * each]:
            terms = tuple(3 + rng.random() for _ in range(TERMS))
            lines.append(json.dumps(Score(mask, sum(terms) / TERMS, terms, 1.0).to_line()))
        (results / name / TRACE).write_text("".join(f"{line}\n" for line in lines))
    return masks


def _blocks(count: int) -> Iterator[tuple[int, ...]]:
    return itertools.islice(itertools.combinations(range(N_BLOCKS), 5), count)
