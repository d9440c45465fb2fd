"""Jobs on the tiny model, as a launcher makes them, and the files that they write to the results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from pruning.config import app, groups
from pruning.config.compose import cell_of
from pruning.engine.forward import Forward
from pruning.engine.memory import MemoryBudget
from pruning.launcher.job import Job

SMALL = (
    "model=local",
    "model.name=tiny",
    "model.dtype=float32",
    "calibration.samples=7",
    "eval.samples=2",
    "eval.length=32",
    "eval.items=6",
    "tracker=none",
)


def job(model: Path, results: Path, *words: str) -> Job:
    """The job of one cell; of several words for one setting, the last counts."""
    app.register()
    places = (f"model.path={model}", f"paths.results={results}")
    given = {word.partition("=")[0]: word for word in (*SMALL, *places, *words)}
    chosen = [word for word in given.values() if not word.endswith("=")]  # `name=` removes a default
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        composed = compose("config", chosen, return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    cell = cell_of(composed, choices)
    return Job(cell.key, cell.config, str(results.parent))


def small_batches(monkeypatch: pytest.MonkeyPatch, tokens: int = 64) -> None:
    """Let forward passes have batches of few tokens, so that every rank gets a batch."""

    def made(forward: Forward) -> None:
        forward.memory_budget = MemoryBudget(forward.model, tokens)

    monkeypatch.setattr(Forward, "__post_init__", made)


def result(results: Path, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / key / "result.json").read_text())
    return found


def journal(results: Path, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / key / "trace.jsonl").read_text().splitlines()]


def journals(results: Path) -> dict[str, Any]:
    """The mask of each cell, and the masks, losses and terms in its journal, in order."""
    contents = {}
    for path in results.glob("*/trace.jsonl"):
        mask = json.loads(path.with_name("mask.json").read_text())
        lines = journal(results, path.parent.name)
        contents[path.parent.name] = (mask, [(s["dropped"], s["loss"], s["samples"]) for s in lines])
    return contents
