"""`launch.py` over sub-layers, from its words to its files."""

from __future__ import annotations

import json

import pytest

from pruning.core.mask import Mask
from pruning.core.scoring import read_trace
from tests.conftest import N_BLOCKS, Command
from tests.study.test_launch import loss_from_files

ROOM = 0.34  # of six blocks


def test_a_ratio_of_sub_layers_removes_this_share_of_the_parameters(
    launch: Command, model_folder: object
) -> None:
    ended = launch("unit=sublayer", f"ratio={ROOM}", "algo=greedy")
    assert ended.status == 0, ended.err
    result = ended.result()
    mask, search = Mask.from_json(result["mask"]), result["search"]
    assert (mask.unit, mask.n_units, search["k"]) == ("sublayer", 2 * N_BLOCKS, len(mask.dropped))
    assert abs(search["budget"]["removed"] - ROOM) < min(search["budget"]["costs"]) / 10_000
    loss, terms = loss_from_files(result, ended.results, model_folder)  # type: ignore[arg-type]
    assert result["calibration"]["loss"] == pytest.approx(loss, rel=1e-5)
    (line,) = [
        e.line for e in read_trace(ended.results / result["cell"] / "trace.jsonl")
        if e.line is not None and tuple(e.line["dropped"]) == mask.dropped
    ]  # fmt: skip
    assert line["samples"] == pytest.approx(terms, rel=1e-5)
    assert json.loads((ended.results / result["cell"] / "mask.json").read_text()) == result["mask"]


def test_units_share_scores_of_sub_layers_and_not_of_blocks(launch: Command) -> None:
    both = launch("-m", "unit=block,sublayer,attention", "k=1", "algo=one_shot")
    assert both.status == 0, both.err
    cells = {result["config"]["unit"]: result["search"] for result in both.all()}
    assert [cells[unit]["evaluations_asked"] for unit in ("block", "sublayer", "attention")] == [6, 12, 6]
    paid = cells["sublayer"]["evaluations_paid"] + cells["attention"]["evaluations_paid"]
    assert (cells["block"]["evaluations_paid"], paid) == (6, 12)


def test_latency_is_measured_once_and_kept(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up seconds: those of tiny units on a busy machine can be such that no set meets the budget."""
    measured: list[object] = []

    def times(*asked: object) -> list[float]:
        measured.append(asked)
        return [0.010, 0.014] * N_BLOCKS

    monkeypatch.setattr("pruning.engine.dense_pass.unit_times", times)
    words = ("unit=sublayer", f"ratio={ROOM}", "budget=latency", "latency.tokens=16", "latency.repeats=3")
    first = launch("-m", *words, "algo=one_shot,greedy")
    assert first.status == 0, first.err
    (table,) = (first.results / "latency").glob("*.json")
    seconds = json.loads(table.read_text())["seconds"]
    assert (seconds, len(measured)) == ([0.010, 0.014] * N_BLOCKS, 1)
    for result in first.all():
        budget = result["search"]["budget"]
        assert budget["cost"] == "latency"
        assert budget["costs"] == [max(1, round(10_000 * s / sum(seconds))) for s in seconds]
        assert budget["least"] <= sum(budget["costs"][i] for i in Mask.from_json(result["mask"]).dropped)
    cell = first.results / first.result("greedy")["cell"]
    costs = first.result("greedy")["search"]["budget"]["costs"]
    (cell / "result.json").unlink()
    monkeypatch.setattr("pruning.engine.dense_pass.unit_times", lambda *_: [0.014, 0.010] * N_BLOCKS)
    monkeypatch.setattr("pruning.evaluation.speed.device_name", lambda _: "another device")
    resumed = launch(*words, "algo=greedy")
    assert "and this is another device: it goes on with the times of its units there" in resumed.err
    assert resumed.result("greedy")["search"]["budget"]["costs"] == costs


def test_a_cell_of_blocks_keeps_its_key(launch: Command) -> None:
    plain, named = launch("k=1"), launch("k=1", "unit=block", "budget=parameters")
    assert plain.result()["cell"] == named.result()["cell"]
    assert "every cell was done" in named.err + named.out
