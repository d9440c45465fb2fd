"""Studies whose masks are over sub-layers, as a cell writes them; beside them, cells of `analysis_grid` fit."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruning.core.mask import Mask, Removal, Space
from tests.helpers.analysis_grid import BLOCKS, World
from tests.helpers.results import a_result

BLOCKS["deep"] = 64
COSTS = (83, 250)  # of an attention and of an MLP of SmolLM2


@dataclass(frozen=True)
class SublayerStudy:
    """What a study covers. `ks` are in addition to `ratios`; `lost` cells leave no result."""

    models: tuple[str, ...] = ("smollm2",)
    units: tuple[str, ...] = ("sublayer", "attention")
    ratios: tuple[float, ...] = (0.1,)
    ks: tuple[int, ...] = ()
    algos: tuple[str, ...] = ("one_shot", "greedy", "genetic")
    seeds: tuple[int, ...] = (0, 1)
    lost: int = 0
    budget: str = "parameters"
    costs: tuple[int, ...] = COSTS


def write(results: Path, study: SublayerStudy) -> list[str]:
    """Write the cells of a study; returns their keys. There is no list of studies."""
    sizes = [("r", ratio) for ratio in study.ratios] + [("k", k) for k in study.ks]
    keys = []
    for model, unit, (kind, size), seed, algo in itertools.product(
        study.models, study.units, sizes, study.seeds, study.algos
    ):
        config = {
            "model": {"name": model},
            "objective": {"class": "Perplexity"},
            "calibration": {"source": "pydoc", "samples": 16, "length": 128, "seed": seed},
            "algo": {"class": algo},
            "ratio": size if kind == "r" else None,
            "k": size if kind == "k" else None,
            "seed": seed,
            "study": "sublayers",
            "protect": {"first": 0, "last": 0},
            "unit": unit,
            "budget": study.budget,
        }
        digest = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
        keys.append(f"{model}-perplexity-{algo}-{kind}{size:g}-s{seed}-{digest}")
        if len(keys) > study.lost:
            _cell(results / keys[-1], study, config, algo)
    return keys


def _cell(folder: Path, study: SublayerStudy, config: dict[str, Any], algo: str) -> None:
    folder.mkdir(parents=True)
    model, seed, n_blocks = config["model"]["name"], config["seed"], BLOCKS[config["model"]["name"]]
    removal = Removal(config["ratio"], config["k"], config["unit"], config["budget"])
    n_units = n_blocks if removal.mask_unit == "block" else 2 * n_blocks
    space = removal.space(n_blocks, (list(study.costs) * n_blocks)[:n_units])
    world = World(2 * n_blocks, model, "perplexity", "pydoc", seed, 16)
    trace, mask = search(world, space, algo, seed)
    (folder / "trace.jsonl").write_text("".join(f"{json.dumps(score)}\n" for score in trace))
    (folder / "mask.json").write_text(json.dumps(mask.to_json()))
    loss = world.measured(mask.dropped)
    spent = removal.record(space, mask)
    asked = len(trace) - 1
    runner_up = {"dropped": mask.listed(), "difference": 0.1, "standard_error": 0.05, "samples": 16}
    result = a_result(
        cell=folder.name,
        config=config,
        model={"name": model, "n_blocks": n_blocks},
        mask=mask.to_json(),
        calibration={**config["calibration"], **loss},
        search={
            **{"algo": algo, "k": len(mask.dropped), "ratio": mask.ratio, "seconds": 0.3 * asked},
            **{"evaluations_asked": asked, "evaluations_paid": asked},
            **({} if spent is None else {"budget": spent}),
        },
        margins={"compared": 1, "runner_up": runner_up},
        evaluation={"pruned": {"ppl/heldout": 17 * float(np.exp(loss["loss"] - 3))}},
    )
    (folder / "result.json").write_text(json.dumps(result))


def search(world: World, space: Space, algo: str, seed: int) -> tuple[list[dict[str, Any]], Mask]:
    """The trace of a search and the mask that it returned, which is in the space."""
    trace: list[dict[str, Any]] = []

    def ask(dropped: Sequence[int]) -> float:
        trace.append(world.score(dropped, 0.3))
        return float(trace[-1]["loss"])

    dense = ask([])
    singles = {unit: space.per_cost(ask([unit]) - dense, unit) for unit in space.free()}
    mask = space.filled((), sorted(singles, key=lambda unit: singles[unit]))
    if algo == "greedy":
        chosen: list[int] = []
        while not space.complete(space.drop(*chosen)):
            rises = {u: space.per_cost(ask([*chosen, u]), u) for u in space.fitting(chosen)}
            chosen.append(min(rises, key=lambda unit: rises[unit]))
        mask = space.drop(*chosen)
    elif algo != "one_shot":
        rng = np.random.default_rng(seed)
        orders = [sorted(singles, key=lambda unit: singles[unit] * rng.uniform(0.5, 2)) for _ in range(20)]
        masks = [mask, *(space.filled((), order) for order in orders)]
        mask = min(masks, key=lambda each: ask(each.dropped))
    ask(mask.dropped)
    assert mask in space
    return trace, mask
