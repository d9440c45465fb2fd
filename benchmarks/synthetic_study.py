"""Write the files of a large study without computing anything: finished cells, and journals full of scores."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydra_plugins.grid_launcher.composer import Composer
from pruning.config.compose import cell_of
from pruning.config.groups import CONF
from pruning.core.mask import Mask
from pruning.core.result import NAME as RESULT
from pruning.core.result import DoneResult
from pruning.core.score import Score
from pruning.core.trace import NAME
from pruning.hydra_app.registry import register
from pruning.runs.cell import Cell
from pruning.study.grid import note_study

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
        (results / name / NAME).write_text("".join(f"{line}\n" for line in lines))
    return masks


def _blocks(count: int) -> Iterator[tuple[int, ...]]:
    return itertools.islice(itertools.combinations(range(N_BLOCKS), 5), count)
