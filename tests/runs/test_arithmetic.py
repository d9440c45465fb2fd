"""Compiled and uncompiled losses are not compared with each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pruning.config.compose import recorded_cell
from pruning.runs.cell import ForwardSettings
from pruning.runs.measurements import evaluation_key
from pruning.runs.prepare import prepare
from pruning.runs.run_cell import score_key
from tests.helpers.jobs import job


def test_times_are_of_where_the_weights_are(model_folder: Path, tmp_path: Path) -> None:
    words = ("k=1", "calibration.length=24", "eval=speed", "eval.samples=", "eval.length=", "eval.items=")
    asked = job(model_folder, tmp_path, *words)
    usual = prepare(recorded_cell(asked.config, asked.choices))
    info = usual.cell.model.load().info
    keys = {evaluation_key(usual, info, "speed")}
    for placed in ({"device_map": "cpu"}, {"max_memory": {"cpu": "1GB"}}, {"offload": str(tmp_path)}):
        other = replace(usual, cell=replace(usual.cell, model=replace(usual.cell.model, **placed)))
        keys.add(evaluation_key(other, info, "speed"))
    assert len(keys) == 4
    assert usual.cell.model.placement() == {}


def test_compiling_keeps_scores_and_measurements_apart_but_not_cells(
    model_folder: Path, tmp_path: Path
) -> None:
    asked = job(model_folder, tmp_path, "k=1", "calibration.length=24")
    plain = prepare(recorded_cell(asked.config, asked.choices))
    compiled = replace(plain, cell=replace(plain.cell, forward=ForwardSettings(compile=True)))
    info = plain.cell.model.load().info
    assert compiled.cell.key == plain.cell.key
    assert score_key(compiled, info) != score_key(plain, info)
    for metric in plain.data:
        assert evaluation_key(compiled, info, metric) != evaluation_key(plain, info, metric)
    other = replace(plain, cell=replace(plain.cell, forward=ForwardSettings(memory=9_000_000)))
    assert score_key(other, info) == score_key(plain, info)
