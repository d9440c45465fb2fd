"""The command `launch.py` on a tiny model, from its words to its files, over blocks and sub-layers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pruning.core.mask import Mask
from pruning.core.scoring import read_trace
from pruning.core.storage import read_json
from pruning.engine.head import Readout
from pruning.models.sublayers import masked
from pruning.search.journal import Journal
from pruning.tracking import rebuild
from tests.conftest import N_BLOCKS, Command
from tests.helpers.mlflow_runs import described, runs

ROOT = Path(__file__).parents[2]


def loss_from_files(result: dict[str, Any], results: Path, model_folder: Path) -> tuple[float, list[float]]:
    """The recorded loss, recomputed by a plain forward pass over the recorded samples."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    path = results / "calibration" / f"{result['calibration']['sha256']}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with torch.no_grad(), masked(model, Mask.from_json(result["mask"])):
        means = [_mean_loglik(model, row) for row in rows]
    if "item" not in rows[0]:
        return -sum(means) / len(means), [-m for m in means]
    gaps = []
    for item in sorted({row["item"] for row in rows}):
        answers = [(row, mean) for row, mean in zip(rows, means, strict=True) if row["item"] == item]
        wrong = [mean for row, mean in answers if not row["right"]]
        gaps.append(sum(wrong) / len(wrong) - sum(mean for row, mean in answers if row["right"]))
    return sum(gaps) / len(gaps), gaps


def _mean_loglik(model: Any, row: dict[str, Any]) -> float:
    ids, (start, stop) = torch.tensor(row["input_ids"]), row["span"]
    scores = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return float(sum(scores[t - 1, ids[t]] for t in range(start, stop))) / (stop - start)


def trace(result: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / result["cell"] / "trace.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["perplexity", "margin"])
def test_one_cell_writes_its_files_and_its_loss_can_be_recomputed(
    launch: Command, model_folder: Path, objective: str
) -> None:
    ended = launch(f"objective={objective}", "ratio=0.34")
    assert ended.status == 0, ended.err
    result = ended.result()
    folder = ended.results / result["cell"]
    names = {path.name for path in folder.iterdir()} - {".lock"}
    bounds = {"trace_bounds.jsonl"} if objective == "perplexity" else set()
    assert names == {"config.yaml", "mask.json", "trace.jsonl", "launch.log", "result.json"} | bounds
    assert result["status"] == "done"
    assert result["error"] is None
    assert result["mask"] == json.loads((folder / "mask.json").read_text())
    assert result["search"] == result["search"] | {"algo": "greedy", "k": 2, "evaluations_asked": 11}
    assert result["search"]["evaluations_paid"] <= 11
    loss, samples = loss_from_files(result, ended.results, model_folder)
    assert result["calibration"]["loss"] == pytest.approx(loss, rel=1e-5)
    lines = trace(result, ended.results)
    (line,) = [line for line in lines if line["dropped"] == result["mask"]["dropped"]]
    assert line["samples"] == pytest.approx(samples, rel=1e-5, abs=1e-6)
    assert set(line) == {"dropped", "loss", "samples", "seconds"}
    for which in ("dense", "pruned"):
        metrics = result["evaluation"][which]
        assert metrics["ppl/heldout"] > 1
        assert 0 <= metrics["acc/heldout"] <= 1
    assert f"tiny {objective} greedy 0.34 " in ended.out


def test_greedy_finds_what_trying_everything_in_each_round_finds(launch: Command) -> None:
    result = (ended := launch("k=3", "objective=margin")).result()
    losses = {tuple(line["dropped"]): line["loss"] for line in trace(result, ended.results)}
    best: tuple[int, ...] = ()
    for size in range(1, 4):
        options = [m for m in losses if len(m) == size and set(best) < set(m)]
        assert len(options) == N_BLOCKS - size + 1
        best = min(options, key=lambda m: losses[m])
    assert tuple(result["mask"]["dropped"]) == best


def test_a_grid_runs_once_and_pays_for_each_mask_once(launch: Command) -> None:
    grid = ["-m", "algo=one_shot,greedy", "objective=perplexity,margin", "ratio=0.17,0.34"]
    ended = launch(*grid)
    assert ended.status == 0, ended.err
    results = ended.all()
    assert len(results) == 8
    for objective in ("perplexity", "margin"):
        same = [r for r in results if r["calibration"]["objective"] == objective]
        lines = [line for r in same for line in trace(r, ended.results) if line["seconds"] > 0]
        masks = [tuple(line["dropped"]) for line in lines]
        assert len(masks) == len(set(masks)), "a mask was paid for twice"
        assert len(masks) == 1 + N_BLOCKS + N_BLOCKS - 1, "the dense model, all singles, one round of pairs"
    before = {path: path.stat().st_mtime_ns for path in ended.results.glob("*/*")}
    again = launch(*grid)
    assert again.nothing_ran
    assert {path: path.stat().st_mtime_ns for path in ended.results.glob("*/*")} == before
    assert again.out == ended.out


def test_scores_are_not_shared_if_that_is_switched_off(launch: Command) -> None:
    ended = launch("-m", "algo=one_shot,greedy", "k=1", "scores.share=false")
    assert [r["search"]["evaluations_paid"] for r in ended.all()] == [N_BLOCKS, N_BLOCKS]


def test_bounds_rule_masks_out_if_a_command_has_one_cell(launch: Command) -> None:
    journals = launch("k=2").results.glob("*/trace_bounds.jsonl")
    assert [bool(journal.read_text()) for journal in journals] == [True]
    grid = launch("-m", "k=2", "seed=1,2")
    assert len(grid.all()) == 3
    assert len([*grid.results.glob("*/trace_bounds.jsonl")]) == 1


def test_the_same_configuration_is_the_same_cell_wherever_it_is_asked_from(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    arguments = ["calibration=text_file", "k=1", "eval.seed=3"]
    first = launch(*arguments, "calibration.path=text.txt").result()["cell"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "copy.txt").write_bytes((tmp_path / "text.txt").read_bytes())
    ended = launch(*arguments, f"calibration.path={tmp_path}/elsewhere/copy.txt")
    assert ended.nothing_ran
    assert ended.result()["cell"] == first
    (tmp_path / "elsewhere" / "copy.txt").write_text("pack my box with five dozen liquor jugs. " * 60)
    assert len(launch(*arguments, f"calibration.path={tmp_path}/elsewhere/copy.txt").all()) == 2


def test_protected_blocks_stay(launch: Command) -> None:
    result = launch("protect.first=2", "protect.last=2", "k=2").result()
    assert result["mask"]["dropped"] == [2, 3]


def test_an_evaluation_with_other_settings_is_added_without_a_search(launch: Command) -> None:
    before, after = launch("k=2").result(), launch("k=2", "eval.items=8").result()
    assert after["search"]["evaluations_paid"] == before["search"]["evaluations_paid"]
    assert after["evaluation"]["data"] != before["evaluation"]["data"]
    assert after["mask"] == before["mask"]


def test_a_result_of_another_cell_in_the_folder_is_an_error(launch: Command) -> None:
    ended = launch("k=1")
    path = ended.results / (cell := ended.result()["cell"]) / "result.json"
    text = path.read_text()
    path.write_text(json.dumps(read_json(path)).replace(cell, f"{cell}0"))  # without its seal
    again = launch("k=1")
    assert all(part in again.err for part in (f"{path} ", f"({cell}0)"))
    assert again.status == 2
    path.write_text(text[:-40])
    assert "damaged" in launch("k=1").err.partition(f"{path} ")[2]


def test_a_failing_cell_is_recorded_and_does_not_stop_the_others(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruning.algo.greedy import Greedy

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such luck")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Greedy, "propose", broken)
        ended = launch("-m", "algo=greedy,one_shot", "k=2")
    assert ended.status == 1
    failed = ended.result("greedy")
    error = failed["error"]
    assert (failed["status"], error["type"], error["message"]) == ("failed", "RuntimeError", "no such luck")
    assert "no such luck" in Path(failed["error"]["log"]).read_text()
    assert ended.result("one_shot")["status"] == "done"
    assert "1 of 2 cells failed" in ended.out
    again = launch("-m", "algo=greedy,one_shot", "k=2")
    assert again.status == 0
    assert again.result("greedy")["status"] == "done"


def test_an_infinite_loss_names_the_blocks(launch: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Readout(lambda pruned, _, targets: math.inf * pruned.of(targets))
    monkeypatch.setattr("pruning.engine.forward.LIKELIHOOD", endless)
    ended = launch("k=1")
    assert ended.result()["error"]["type"] == "LossError"
    assert " inf: try model.dtype=float32" in ended.out


def test_an_unreachable_model_is_refused_before_the_first_cell(launch: Command, model_folder: Path) -> None:
    ended = launch("-m", "model=local,qwen3", f"++model.path={model_folder}", "k=1", "model.name=x")
    assert ended.status == 0, "a path overrides the hub id"
    before = ended.all()
    for asked in ("model=qwen3", "model=Some/Where"):
        ended = launch("-m", asked, "model.path=Qwen/Qwen3-8B", "k=2,3", "model.name=x", f"seed={len(asked)}")
        assert ended.status == 2
        assert ended.all() == before, "nothing has run"
        assert "Qwen/Qwen3-8B" in ended.err
        assert "hf auth login" in ended.err


def test_ctrl_c_leaves_everything_resumable_and_prints_how(
    launch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, added = Journal.add, list[Any]()

    def interrupting(self: Journal, score: Any) -> None:
        honest(self, score)
        added.append(score)
        if len(added) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupting)
        ended = launch("k=2", "objective=margin")
    assert ended.status == 130
    assert "0 of 1 cells" in ended.out
    assert "jobs" not in ended.out
    (trace,) = ended.results.glob("*/trace.jsonl")
    assert (kept := trace.read_bytes()).count(b"\n") == 5
    result = launch("k=2", "objective=margin").result()
    assert trace.read_bytes().startswith(kept)
    assert result["search"]["evaluations_paid"] == result["search"]["evaluations_asked"] == 11


def command_line(model_folder: Path, results: Path, *words: str) -> list[str]:
    small = "model=local model.name=local model.dtype=float32 eval.samples=2 eval.length=32 eval.items=6"
    sizes = f"calibration.samples=4 calibration.length=24 tracker=none model.path={model_folder}"
    program = [sys.executable, str(ROOT / "launch.py")]
    return [*program, *small.split(), *sizes.split(), f"paths.results={results}", *words]


@pytest.mark.slow
def test_kill_9_costs_nothing_that_was_computed(launch: Command, model_folder: Path, tmp_path: Path) -> None:
    whole = launch("k=4", "model.name=local")
    command = command_line(model_folder, tmp_path / "killed", "k=4", "calibration.samples=4")
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    journal = tmp_path / "killed" / whole.result()["cell"] / "trace.jsonl"
    deadline = time.monotonic() + 300  # a busy machine starts slowly
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    kept = journal.read_bytes()
    with journal.open("ab") as stream:
        stream.write(b'{"dropped": [0, 1], "lo')  # a line that a kill cut off
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((journal.parent / "result.json").read_text())
    assert journal.read_bytes().startswith(kept)
    assert result["mask"] == whole.result()["mask"]

    def scores(path: Path) -> dict[tuple[int, ...], float]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({tuple(line["dropped"]) for line in lines}) == len(lines), "a mask was paid for twice"
        return {tuple(line["dropped"]): line["loss"] for line in lines}

    assert scores(journal) == scores(whole.results / whole.result()["cell"] / "trace.jsonl")


def test_mlflow_mirrors_the_files_and_can_be_rebuilt(launch: Command) -> None:
    launch("algo=greedy", "k=2", "study=test")  # without a tracker: recorded by the next command
    ended = launch("-m", "algo=one_shot,greedy", "k=2", "study=test", tracker="mlflow")
    assert ended.status == 0, ended.err
    found, results = recorded(ended.results), {result["cell"]: result for result in ended.all()}
    assert found.keys() == results.keys()
    for cell, run in found.items():
        assert (run["ended"][0], run["tags"]["sweep"]) == ("FINISHED", "test")
        assert run["parameters"]["algo.class"] == results[cell]["config"]["algo"]["class"]
        measured = results[cell]["evaluation"]["pruned"]["ppl/heldout"]
        ((_, pruned),), ((_, shown),) = run["metrics"]["pruned/ppl/heldout"], run["metrics"]["ppl"]
        assert (pruned, shown) == (pytest.approx(measured), round(measured, 2))
        curve = [value for _, value in run["metrics"]["search/best_loss"]]
        assert curve == sorted(curve, reverse=True)
        assert run["files"] == ["config.yaml", "launch.log", "mask.json", "result.json", "trace.jsonl"]
    moved = ended.results.rename(ended.results.with_name("moved"))
    for _ in range(2):
        assert rebuild.record_all(moved) == 2
    assert recorded(moved) == found


def recorded(results: Path) -> dict[str, Any]:
    """What MLflow has of each cell."""
    uri = f"sqlite:///{results / 'mlflow.db'}"
    return {cell: described(uri, run) for cell, run in runs(uri).items()}


def test_a_failing_tracker_is_a_warning(launch: Command) -> None:
    ended = launch("k=1", "tracker=mlflow", "tracker.uri=http://localhost:9", tracker="mlflow")
    assert ended.status == 0, ended.err
    assert "tracker.uri=URI" in ended.err
    assert ended.result()["status"] == "done"


def test_a_lazy_search_has_a_key_of_its_own_and_warns_on_items(launch: Command) -> None:
    plain = launch("k=3", "objective=perplexity").result()
    text = launch("k=3", "objective=perplexity", "algo.lazy=0.05")
    (lazy,) = [result for result in text.all() if result["cell"] != plain["cell"]]
    assert lazy["config"]["algo"]["lazy"] == 0.05
    assert lazy["search"]["evaluations_asked"] <= plain["search"]["evaluations_asked"]
    margin = launch("k=1", "objective=margin", "algo.lazy=0.05")
    items = launch("k=1", "objective=divergence", "calibration=commonsense", "algo.lazy=0.05")
    for ended, warned in ((text, False), (margin, True), (items, True)):
        assert ("algo.lazy=null" in ended.err + ended.out) is warned


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
    assert len(measured) == 1
    seconds = [0.010, 0.014] * N_BLOCKS
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
    assert "another device" in resumed.err
    assert resumed.result("greedy")["search"]["budget"]["costs"] == costs
