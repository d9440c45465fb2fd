"""Synthetic studies with known effects: data frames, and results folders in the form that cells write."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pruning.core.mask import Mask, Removal, Space
from tests.helpers.results import a_result

# -- frames ----------------------------------------------------------------------------------------------


def frame(
    objectives: int = 3,
    data: int = 2,
    draws: int = 3,
    algos: int = 5,
    models: Sequence[str] = ("a",),
    ks: Sequence[int] = (3,),
) -> pd.DataFrame:
    """A complete grid of cells without outcomes."""
    levels = itertools.product(models, ks, range(objectives), range(data), range(draws), range(algos))
    rows = [
        {
            "status": "done",
            "model": m,
            "k": k,
            "ratio": k / 30,
            "n_blocks": 30,
            "objective": f"o{o}",
            "calibration": f"text{d}",
            "samples": 16,
            "length": 128,
            "draw": s,
            "seed": s,
            "algo": f"algo{a}",
            "protect_first": 0,
            "protect_last": 0,
        }
        for m, k, o, d, s, a in levels
    ]
    return pd.DataFrame(rows)


def effect(cells: pd.DataFrame, columns: Sequence[str], size: float, rng: np.random.Generator) -> Any:
    """Effects (cells,): a normal number of standard deviation `size` for each combination of values in `columns`."""
    level = cells.groupby(list(columns), dropna=False).ngroup().to_numpy()
    return rng.normal(0, size, level.max() + 1)[level]


def with_masks(cells: pd.DataFrame, importance: np.ndarray[Any, Any]) -> pd.DataFrame:
    """The cells with masks: each drops its k blocks of least `importance` (cells, n_blocks)."""
    order = importance.argsort(axis=1)
    dropped = [tuple(sorted(map(int, row[:k]))) for row, k in zip(order, cells["k"], strict=True)]
    return cells.assign(dropped=pd.Series(dropped, index=cells.index, dtype=object))


# -- folders ---------------------------------------------------------------------------------------------

BLOCKS = {"smollm2": 30, "gemma3_270m": 18, "llama3": 32, "deep": 64}
MEASURED = ("model", "mask", "calibration", "search", "margins", "evaluation")  # parts of a finished result
NEEDS = {
    "perplexity": ("pydoc", "wikipedia_sample"),
    "divergence": ("pydoc", "wikipedia_sample"),
    "block_influence": ("pydoc", "wikipedia_sample"),
    "margin": ("commonsense",),
}


@dataclass(frozen=True)
class Study:
    """The settings of a synthetic study. `lost` cells have no result, and `broken` cells have failed.

    For each kind of unit, cells remove the fractions `ratios` of `budget` and the numbers `ks`. `costs` are those of
    an attention layer and an MLP. If `sources` is empty, each objective uses all sources that it can read.
    """

    models: tuple[str, ...] = ("smollm2", "gemma3_270m")
    ratios: tuple[float, ...] = (0.1, 0.2)
    objectives: tuple[str, ...] = ("perplexity", "divergence", "margin")
    algos: tuple[str, ...] = ("one_shot", "greedy", "beam", "genetic", "bayesian", "cbo", "fast_block_select")
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ("ppl/heldout", "acc/heldout")
    samples: int = 16
    lost: int = 3
    broken: int = 1
    name: str = "small"
    units: tuple[str, ...] = ("block",)
    ks: tuple[int, ...] = ()
    budget: str = "parameters"
    costs: tuple[int, ...] = (83, 250)
    sources: tuple[str, ...] = ()
    cells: list[str] = field(default_factory=list)


SMALL = Study(
    models=("smollm2",),
    ratios=(0.1,),
    objectives=("perplexity", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian"),
    lost=1,
)
# The smallest study: one cell.
ONE = replace(SMALL, objectives=("margin",), algos=("greedy",), seeds=(0,), lost=0, broken=0)
SUBLAYERS = replace(
    ONE,
    objectives=("perplexity",),
    algos=("one_shot", "greedy", "genetic"),
    seeds=(0, 1),
    metrics=("ppl/heldout",),
    units=("sublayer", "attention"),
    sources=("pydoc",),
)


def write(results: Path, study: Study) -> list[str]:
    """Write a study's folder; returns the keys of its cells."""
    keys = []
    for number, (cell, config) in enumerate(_cells(study)):
        keys.append(cell)
        if number % 17 == 5 and number // 17 < study.lost:
            continue
        broken = number % 17 == 11 and number // 17 < study.broken
        _cell(results, study, cell, config, broken)
    (results / "studies").mkdir(parents=True, exist_ok=True)
    listed = json.dumps({"study": study.name, "cells": keys})
    (results / "studies" / f"{study.name}.json").write_text(listed, encoding="utf-8")
    return keys


def _cells(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    sizes = [("r", ratio) for ratio in study.ratios] + [("k", k) for k in study.ks]
    choices = (study.models, study.units, study.objectives, sizes, study.seeds, study.algos)
    for model, unit, objective, (kind, size), seed, algo in itertools.product(*choices):
        for source in study.sources or NEEDS[objective]:
            length = None if source == "commonsense" else 128
            config = {
                "model": {"name": model},
                "objective": {"class": objective.title()},
                "calibration": {"source": source, "samples": study.samples, "length": length, "seed": seed},
                "algo": {"class": algo.title().replace("_", "")},
                "ratio": size if kind == "r" else None,
                "k": size if kind == "k" else None,
                "seed": seed,
                "study": study.name,
                "protect": {"first": 0, "last": 0},
                "unit": unit,
                "budget": study.budget,
            }
            digest = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
            yield f"{model}-{objective}-{algo}-{kind}{size:g}-s{seed}-{digest}", config


def _cell(results: Path, study: Study, cell: str, config: dict[str, Any], broken: bool) -> None:
    (folder := results / cell).mkdir(parents=True)
    if broken:
        error = {"type": "LossError", "message": "the loss is not finite", "log": "launch.log"}
        result = a_result(cell=cell, config=config, status="failed", error=error, **dict.fromkeys(MEASURED))
    else:
        result = a_result(cell=cell, config=config, **_measured(folder, study, cell, config))
    (folder / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")


def _measured(folder: Path, study: Study, cell: str, config: dict[str, Any]) -> dict[str, Any]:
    _, objective, algo, *_ = cell.split("-")
    model, calibration = config["model"]["name"], config["calibration"]
    n, removal = BLOCKS[model], Removal(config["ratio"], config["k"], config["unit"], config["budget"])
    units = n if removal.mask_unit == "block" else 2 * n
    space = removal.space(n, (list(study.costs) * n)[:units])
    world = World(units, model, objective, calibration["source"], config["seed"], calibration["samples"])
    trace, mask = search(world, space, algo, config["seed"])
    lines = [json.dumps(score) for score in trace]
    partial = json.dumps({"dropped": [0], "loss": 1.0, "samples": [1.0], "seconds": 0.1, "of": 16})
    (folder / "trace.jsonl").write_text("\n".join([lines[0], partial, *lines[1:]]) + "\n", encoding="utf-8")
    (folder / "mask.json").write_text(json.dumps(mask.to_json()), encoding="utf-8")
    asked, spent = len(trace) - 1, removal.record(space, mask)
    states: dict[str, Sequence[int]] = {"dense": (), "pruned": mask.dropped}
    return {
        "model": {"name": model, "n_blocks": n},
        "mask": mask.to_json(),
        "calibration": {
            **calibration,
            "objective": objective,
            "length": calibration["length"] or 60 + 7 * calibration["seed"],  # for items: that of the longest
            **world.measured(mask.dropped),
        },
        "search": {
            **{"algo": algo, "k": len(mask.dropped), "ratio": mask.ratio, "seconds": round(0.31 * asked, 3)},
            **{"evaluations_asked": asked, "evaluations_paid": asked // 2},
            "evaluations_shared": asked - asked // 2,
            "block_forwards": asked * n * 0.4,
            "block_forwards_alone": asked * (n - len(mask.dropped)),
            "peak_memory": 10**9,
            **({} if spent is None else {"budget": spent}),
        },
        "margins": _margins(trace, mask),
        "evaluation": {which: _evaluated(study, model, units, gone) for which, gone in states.items()},
    }


def _margins(trace: Sequence[dict[str, Any]], mask: Mask) -> dict[str, Any]:
    """The runner-up among other masks as large as `mask`, and those within two standard errors of `mask`."""
    own, k = np.array(trace[-1]["samples"]), len(mask.dropped)
    others = {tuple(s["dropped"]): np.array(s["samples"]) - own for s in trace if len(s["dropped"]) == k}
    others.pop(mask.dropped, None)
    if not others:
        return {"compared": 0, "runner_up": None, "tied": 0, "ties": []}
    errors = {other: float(terms.std(ddof=1) / len(terms) ** 0.5) for other, terms in others.items()}
    ties = [list(other) for other, terms in others.items() if terms.mean() <= 2 * errors[other]]
    nearest = min(others, key=lambda other: others[other].mean())
    difference = {"difference": float(others[nearest].mean()), "standard_error": errors[nearest]}
    runner_up = {"dropped": replace(mask, dropped=nearest).listed(), "samples": len(own)} | difference
    return {"compared": len(others), "runner_up": runner_up, "tied": len(ties), "ties": ties}


def _rng(*parts: Any) -> np.random.Generator:
    return np.random.default_rng(int(hashlib.sha256(repr(parts).encode()).hexdigest()[:12], 16))


class World:
    """Losses of samples that add up over units; outer units cost most, and adjacent units interact a little."""

    def __init__(self, n: int, model: str, objective: str, source: str, seed: int, samples: int) -> None:
        depth = np.linspace(-1, 1, n)
        bowl = 0.05 + 0.5 * depth**4 + 0.1 * _rng(model).random(n)
        own = 0.15 * _rng(model, objective).random(n) + 0.04 * _rng(model, objective, source).random(n)
        noise = _rng(model, objective, source, seed).normal(0, 0.08, (samples, n))
        self.cost = bowl + own + noise  # (samples, blocks)
        self.dense = 3.0 + 0.3 * _rng(source, seed).normal(size=samples)
        self.n = n

    def losses(self, dropped: Sequence[int]) -> Any:
        """The losses (samples,) of a mask."""
        gaps = np.diff(sorted(dropped))
        return self.dense + self.cost[:, list(dropped)].sum(1) + 0.05 * np.sum(gaps == 1)

    def measured(self, dropped: Sequence[int]) -> dict[str, float]:
        """The loss of a mask, in the form of a result."""
        losses = self.losses(dropped)
        error = float(losses.std(ddof=1) / len(losses) ** 0.5)
        return {
            "loss": float(losses.mean()),
            "dense_loss": float(self.losses([]).mean()),
            "standard_error": error,
        }

    def score(self, dropped: Iterable[int], seconds: float) -> dict[str, Any]:
        """The score of a mask, in the form of a trace's line."""
        losses = self.losses(sorted(dropped))
        score = {"dropped": sorted(dropped), "loss": float(losses.mean()), "samples": losses.tolist()}
        return score | {"seconds": seconds}


def search(world: World, space: Space, algo: str, seed: int) -> tuple[list[dict[str, Any]], Mask]:
    """The trace of a search, and the mask in `space` that it returned."""
    trace: list[dict[str, Any]] = []

    def ask(dropped: Iterable[int]) -> float:
        chosen = sorted(dropped)
        trace.append(world.score(chosen, 0.3 * (1 - len(chosen) / world.n) * (len(trace) % 3 > 0)))
        return float(trace[-1]["loss"])

    dense = ask([])
    singles = {unit: space.per_cost(ask([unit]) - dense, unit) for unit in space.free()}
    mask = space.filled((), sorted(singles, key=lambda unit: singles[unit]))
    if algo in ("greedy", "beam"):
        chosen: list[int] = []
        while not space.complete(space.drop(*chosen)):
            rises = {u: space.per_cost(ask([*chosen, u]), u) for u in space.fitting(chosen)}
            chosen.append(min(rises, key=lambda unit: rises[unit]))
        mask = space.drop(*chosen)
    elif algo not in ("one_shot", "fast_block_select"):
        rng = _rng(algo, seed)
        orders = [sorted(singles, key=lambda unit: singles[unit] * rng.uniform(0.5, 2)) for _ in range(40)]
        mask = min([mask, *(space.filled((), order) for order in orders)], key=lambda one: ask(one.dropped))
    ask(mask.dropped)
    assert mask in space
    return trace, mask


def _evaluated(study: Study, model: str, n: int, dropped: Sequence[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in study.metrics:
        like = "perplexity" if name.startswith("ppl") else "margin"
        world = World(n, model, like, name, 9, 64)
        damage = float((world.losses(dropped) - world.dense).mean()) if dropped else 0.0
        noise = 0.02 * _rng(name, tuple(dropped)).normal()
        if name.startswith("ppl"):
            found |= {name: 17 * float(np.exp(damage + noise)), f"{name}/stderr": 0.5}
        else:
            found |= {name: 0.3 + 0.35 * float(np.exp(-damage)) + noise, f"{name}/stderr": 0.03}
    return found
