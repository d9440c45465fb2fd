"""Measure how the cost of a study grows with its cells and its scores; `make bench-growth` runs it.

python -m benchmarks.growth [WORD ...]       only the works whose names contain one of the words

Prints a row for each work: CPU seconds (or MB) at several sizes, and the exponent of growth, which is 1 if twice the
size costs twice as much. It compares the two largest sizes, because constant costs dominate small ones. Writes
benchmarks/growth_study.json and benchmarks/growth_analysis.json.

A study for the figures grows by draws, which is the hard way: the groups that are compared, and the strata whose
variance is divided, grow with it. Each figure, each table and the report runs in a fresh process, of which only the
CPU seconds of the start (its `--help`) are left out of the exponent.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from benchmarks.command_cost import ROOT, python
from hydra_plugins.grid_launcher.sweeper import Composer
from pruning.config.app import register
from pruning.config.compose import cell_of
from pruning.config.groups import CONF
from pruning.core import storage
from pruning.core.mask import Mask
from pruning.core.records import FOLDER, NAME, read_done
from pruning.core.scoring import NAME as TRACE
from pruning.core.scoring import Estimate, Score
from pruning.core.units import MEBIBYTE
from pruning.evaluation import digests_of
from pruning.runs.cell import Cell
from pruning.search.journal import Store, claim
from pruning.study import text_tables
from pruning.study.grid import note_study

STUDY_RESULTS, ANALYSIS_RESULTS = (
    ROOT / "benchmarks" / f"growth_{part}.json" for part in ("study", "analysis")
)
CELLS, SCORES = (248, 504, 1000, 2000), (1_000, 10_000, 100_000)
DRAWN_CELLS = (500, 1000, 2000, 5000)  # of the studies that are drawn
COMMANDS = (*(f"fig{n}" for n in range(1, 11)), "table1", "table2", "table3", "report")
COPIED = {"fig9": "study_units", "fig10": "study_healing"}  # the archive whose cells are copied
N_BLOCKS, TERMS = 30, 16  # blocks of the model, samples of a score
log = logging.getLogger("benchmarks")


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
        _store(Path(sys.argv[2])).find([Mask(N_BLOCKS, (block,)) for block in range(30)])
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from benchmarks.run import device_name  # not above: torch would count as memory of a start

    def chosen(name: str) -> bool:
        return not sys.argv[1:] or any(word in name for word in sys.argv[1:])

    log.info("| work | cost by size | exponent |\n|---|---|---|")
    study = storage.read_json(STUDY_RESULTS) if STUDY_RESULTS.exists() else {"works": {}}
    for name, sizes, cost in filter(lambda work: chosen(work[0]), WORKS):
        study["works"][name] = {}
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                study["works"][name][str(size)] = round(cost(Path(folder), size), 4)
        log.info("| %s |", " | ".join(row(name, study["works"][name])))
        storage.write_json(STUDY_RESULTS, study | {"device": device_name()})
    if commands := [command for command in COMMANDS if chosen(command)]:
        found = analyse(commands)
        storage.write_json(ANALYSIS_RESULTS, {"device": device_name(), **found})


# The figures, the tables and the report of a study.


def analyse(commands: Sequence[str]) -> dict[str, Any]:
    """The costs of commands of the analysis on studies of growing size; a row is printed for each."""
    from tests.helpers.analysis_grid import Study, write

    runs: list[dict[str, Any]] = []
    for cells in DRAWN_CELLS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            seeds = max(2, round(cells / len(write(folder / "one", Study(seeds=(0,), lost=0, broken=0)))))
            written = len(write(folder / "study", Study(seeds=tuple(range(seeds)))))
            for command in commands:
                results = folder / COPIED.get(command, "study")
                if command in COPIED:
                    write_copies(results, COPIED[command], written)
                words = ("--results", str(results), "--out", str(folder / "out" / command))
                runs.append({"command": command, "cells": written, **timed(command, *words)})
    starts = {command: timed(command, "--help")["cpu"] for command in commands}
    for command in commands:
        costs = {str(run["cells"]): run["cpu"] for run in runs if run["command"] == command}
        log.info("| %s |", " | ".join(row(command, costs, starts[command])))
    return {"starts": starts, "runs": runs}


def timed(command: str, *arguments: str) -> dict[str, float]:
    """CPU seconds, wall seconds and peak memory of a command of the analysis in a fresh process."""
    cost = python("-m", "pruning.cli", *([] if command == "report" else ["figure"]), command, *arguments)
    return {"cpu": round(cost.cpu, 1), "wall": round(cost.seconds, 1), "peak_megabytes": round(cost.memory)}


def write_copies(results: Path, study: str, cells: int) -> None:
    """Fill a results folder with at least the cells of an archived study, and copies of them up to `cells`.

    Each copy is another draw, and its mask is moved by some blocks. So there are as many distinct masks as a model
    has blocks, times those of the study. Measurements are those of the cell that was copied.
    """
    from analysis.data.archive import unpack

    unpack(ROOT / "analysis" / study / f"{study}.tar.xz", results)
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


# Launching a study, and storing it.


def launch(folder: Path, count: int) -> float:
    """CPU seconds of `launch.py -m` over finished cells, start of Python included."""
    write_done(folder, count)
    return python("launch.py", "-m", *arguments(folder, count)).cpu


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
    masks = write_scores(folder, scores // 100, 100)
    return _cpu(lambda: _store(folder).find(masks[:: max(1, scores // 435)]))


def memory(folder: Path, scores: int) -> float:
    """The most MB that a process needs for such a start, imports included."""
    write_scores(folder, scores // 100, 100)
    return python("-m", "benchmarks.growth", "--start", str(folder)).memory


WORKS: tuple[tuple[str, tuple[int, ...], Callable[[Path, int], float]], ...] = (
    ("launch -m over finished cells, s", CELLS, launch),
    ("table of finished cells, s", CELLS, table),
    ("digest of a 20 MB text for each cell, s", CELLS, keys),
    ("start of a cell by scores in the store, s", SCORES, start),
    ("memory of this start and of the imports, MB", SCORES, memory),
)


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _store(folder: Path) -> Store:
    estimate = Estimate((1.0,) * TERMS, (0,) * TERMS)
    claim(folder, "key", "own")
    return Store(folder, "key", "own", N_BLOCKS, estimate=estimate)


# The files of a large study, written without computing anything: finished cells, and journals full of scores.

OPTIONS = {"algo": "one_shot,greedy", "objective": "perplexity,margin", "ratio": "0.1,0.2"}


def arguments(results: Path, count: int) -> list[str]:
    """The arguments of `launch.py -m` for a grid of `count` cells, a multiple of 8."""
    swept = [f"{name}={values}" for name, values in OPTIONS.items()]
    return [*swept, f"seed=range({count // 8})", f"paths.results={results}", "tracker=none"]


def write_done(results: Path, count: int) -> None:
    """Write a finished result for each cell of `arguments(results, count)`."""
    cells = list(_cells(results, count))
    for cell in cells:
        cell.folder.mkdir(parents=True)
        (cell.folder / NAME).write_text(json.dumps(_result(cell)))  # without the wait for the disk
    note_study(cells)


def _cells(results: Path, count: int) -> Iterator[Cell]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
        options = itertools.product(*(values.split(",") for values in OPTIONS.values()))
        for values, seed in itertools.product(options, range(count // 8)):
            words = [f"{name}={value}" for name, value in zip(OPTIONS, values, strict=True)]
            words += [f"seed={seed}", f"paths.results={results}", "tracker=none"]
            yield cell_of(*composer.compose(words))


def _result(cell: Cell) -> dict[str, Any]:
    measured = {"ppl/heldout": 16.9, "acc/heldout": 0.5, "acc/heldout/stderr": 0.03}
    calibration = {"source": "pydoc", "samples": TERMS, "length": 128, "loss": 3.5, "dense_loss": 3.3}
    search = {"algo": cell.choices.algo, "k": 3, "ratio": 0.1, "stopped": "3 blocks were removed"}
    return {
        "cell": cell.key,
        "status": "done",
        "error": None,
        "model": {"name": cell.model.name, "n_blocks": N_BLOCKS, "dtype": cell.model.dtype},
        "mask": Mask(N_BLOCKS, tuple(random.Random(cell.seed).sample(range(N_BLOCKS), 3))).to_json(),
        "calibration": {"objective": cell.choices.objective, **calibration},
        "search": search | {"evaluations_asked": 30.0, "evaluations_paid": 30.0, "seconds": 1.0},
        "evaluation": {"dense": measured, "pruned": measured, "files": {}},
        "config": dict(cell.config),
    }


def write_scores(results: Path, cells: int, each: int) -> list[Mask]:
    """Write the journals of `cells` cells with `each` scores, registered in the store; returns the scored masks."""
    rng = random.Random(0)
    blocks = itertools.islice(itertools.combinations(range(N_BLOCKS), 5), cells * each)
    masks = [Mask(N_BLOCKS, dropped) for dropped in blocks]
    (results / "scores" / "key").mkdir(parents=True)
    for number in range(cells):
        name = f"cell-{number:05d}"
        (results / "scores" / "key" / name).touch()
        (results / name).mkdir()
        lines = []
        for mask in masks[number * each : (number + 1) * each]:
            terms = tuple(3 + rng.random() for _ in range(TERMS))
            lines.append(json.dumps(Score(mask, sum(terms) / TERMS, terms, 1.0).to_line()))
        (results / name / TRACE).write_text("".join(f"{line}\n" for line in lines))
    return masks


if __name__ == "__main__":
    main()
