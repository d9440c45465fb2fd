"""Runs of cells over sub-layers: their pictures, names, tags and curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.core.mask import Mask
from pruning.core.records import read_done
from pruning.tracking.mlflow_run import _metrics, _tags, run_name
from tests.helpers.analysis_grid import SUBLAYERS, write

KEY = "smollm2-perplexity-greedy-{}-s0-0a1b2c3d"


@pytest.mark.parametrize(
    ("size", "config", "words"),
    [
        ("r0.2", {"unit": "sublayer"}, "ratio=0.2 sublayer"),
        ("r0.2", {"unit": "attention", "budget": "latency"}, "ratio=0.2 attention of latency"),
        ("r0.2", {"unit": "block", "budget": "latency"}, "ratio=0.2 of latency"),
        ("k6", {"unit": "sublayer"}, "k=6 sublayer"),
        ("k1", {"unit": "mlp"}, "k=1 mlp"),
        ("k6", {"unit": "block", "budget": "parameters"}, "k=6"),
    ],
)
def test_a_run_names_the_unit(size: str, config: dict[str, Any], words: str) -> None:
    plain = {"unit": "block", "budget": "parameters"}
    assert (
        run_name(KEY.format(size), plain | config, 6) == f"{words} · greedy · perplexity · smollm2 · seed 0"
    )
    key = "my-own-a_b-one-r0.2-s11-0a1b2c3d"
    assert run_name(key, plain, None) == "ratio=0.2 · one · a_b · my-own · seed 11"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (key,) = write(tmp_path, replace(SUBLAYERS, units=("sublayer",), algos=("genetic",), seeds=(0,)))
    return tmp_path / key


def test_tags_name_the_unit_and_the_sublayers(folder: Path) -> None:
    result = read_done(folder)
    tags = dict(_tags(result, []))
    assert tags["dropped"] == f"[{', '.join(Mask.from_json(result['mask']).names())}]"
    assert tags["unit"] == "sublayer"


def test_the_curve_is_over_masks_that_meet_the_budget(folder: Path) -> None:
    result = read_done(folder)
    budget = result["search"]["budget"]
    expected: list[tuple[int, float]] = []
    seen: dict[tuple[int, ...], float] = {}
    for line in map(json.loads, (folder / "trace.jsonl").read_text().splitlines()):
        if (mask := tuple(line["dropped"])) in seen:
            continue
        seen[mask] = line["loss"]
        if budget["least"] <= sum(budget["costs"][unit] for unit in mask) <= budget["most"]:
            expected.append((len(seen), min([line["loss"], *(loss for _, loss in expected)])))
    curve = [(step, best) for name, best, step in _metrics(result, folder) if name == "search/best_loss"]
    assert len(curve) > 1
    assert curve == expected
    assert curve[-1][1] == result["calibration"]["loss"]
