"""Grids on a real cluster: failing cells, ranks, resources, order, status, and what is not there for a moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning.launcher.cell_state import StateName, cell_states
from pruning.launcher.job import ROOT
from pruning.launcher.submission import submissions
from tests.conftest import N_BLOCKS
from tests.helpers.jobs import journals
from tests.helpers.subprocesses import depth_pruning
from tests.slurm.conftest import Grid, until

FOUR = ("-m", "algo=one_shot,greedy,beam,contiguous", "k=2", "launcher.parallel=4")


def test_cells_raise_exit_and_are_killed(grid: Grid) -> None:
    grid.expect(one_shot=(3, "raise"), greedy=(4, "exit"), beam=(5, "kill"))
    ended = grid.run(*FOUR)
    assert ended.status == 1
    assert "3 of 4 cells failed" in ended.out
    assert "a planned fault" in ended.out, "the cell itself recorded the reason"
    assert "(SLURM: FAILED)" in ended.out, "SLURM reports the cells that could not record a reason"
    for part, state in (
        ("one_shot", "FAILED"),
        ("greedy", "FAILED"),
        ("beam", "FAILED"),
        ("contiguous", "COMPLETED"),
    ):
        grid.cluster.ends(grid.job(part), state)
    logs = [line.split()[-1] for line in ended.out.splitlines() if "results/" in line and "tiny-" in line]
    assert all(Path(log).stat().st_size for log in logs if log.startswith("/"))
    grid.completes(*FOUR)
    (first, second) = submissions(grid.results)
    assert (len(first.jobs), len(second.jobs)) == (4, 3), "a finished cell is not submitted again"


LONG = (
    "-m",
    "algo=one_shot,greedy",
    "k=2",
    *("calibration.samples=5", "calibration.length=700"),  # several batches, so that each rank gets some
)


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (2, 1)])
def test_ranks_give_the_losses_of_one_process(grid: Grid, tmp_path: Path, nodes: int, ranks: int) -> None:
    grid.expect(greedy=(4, "kill"))
    words = (f"model.resources.nodes={nodes}", f"model.resources.ranks={ranks}")
    ended = grid.run(*LONG, *words)
    assert ended.status == 1
    assert "1 of 2 cells failed" in ended.out
    again = grid.run(*LONG, *words)
    assert again.status == 0, again.out + again.err
    plain = grid.launch(*LONG, "scores.share=false", f"paths.results={tmp_path / 'plain'}")
    assert plain.status == 0, plain.err
    assert journals(grid.results) == journals(tmp_path / "plain")
    tasks = {
        path.name.rpartition("_log")[0].rpartition("_")[2] for path in grid.results.glob("jobs/*/*_log.err")
    }
    assert tasks == {"0", "1"}


MODEL = """defaults: [/schema/model/model@_here_, _self_]
name: {name}
source: local
path: {path}
dtype: float32
resources: {{gpus_per_rank: {gpus}, cpus_per_rank: 1, memory_gb: {memory}, minutes: 10}}
"""


def test_each_model_asks_for_its_own_resources(grid: Grid, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for name, gpus, memory in (("small", 0, 0.9), ("large", 2, 1.5)):
        text = MODEL.format(name=name, path=model_folder, gpus=gpus, memory=memory)
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text(text)
    show = f"launcher.setup=['echo gpus $CUDA_VISIBLE_DEVICES >>{tmp_path}/gpus']"
    small = (
        "calibration.samples=4 calibration.length=24 eval.samples=2 eval.length=32 eval.items=6 tracker=none"
    )
    words = "model=small,large algo=one_shot k=1,2 launcher=slurm launcher.warning_seconds=15"
    where = [f"--config-dir={tmp_path / 'conf'}", f"paths.results={grid.results}", show]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *where, *small.split(), *words.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    records = list(submissions(grid.results))
    assert [len(record.jobs) for record in records] == [2, 2], "an array for each kind of resources"
    asked = {}
    for record in records:
        number = next(iter(record.jobs.values())).partition("_")[0]
        lines = grid.cluster.call(
            "sacct", "-X", "-n", "-P", "--format=ReqTRES", f"--jobs={number}"
        ).splitlines()
        asked[next(iter(record.tasks.values())).config["model"]["name"]] = set(lines)
    ((cheap,), (dear,)) = asked["small"], asked["large"]
    assert "gres/gpu" not in cheap
    assert "gres/gpu=2" in dear
    assert "mem=922M" in cheap
    assert "mem=1536M" in dear or "mem=1.50G" in dear
    assert sorted((tmp_path / "gpus").read_text().splitlines()) == ["gpus", "gpus", "gpus 0,1", "gpus 0,1"]


def test_cells_are_ordered_so_that_they_share_and_one_runs_at_a_time(grid: Grid) -> None:
    words = ("-m", "algo=greedy,one_shot", "k=2", "launcher.parallel=1", "scores.share=true")
    ended = grid.run(*words)
    assert ended.status == 0, ended.out + ended.err
    shared = {result["search"]["algo"]: result["search"]["evaluations_shared"] for result in ended.all()}
    assert shared["one_shot"] == 0, "the shorter search ran first"
    assert shared["greedy"] >= N_BLOCKS, "the longer search reused its losses"


def test_cells_that_run_at_once_share_what_is_written(grid: Grid) -> None:
    grid.expect(one_shot=(5, "hold"))
    grid.submit("algo=one_shot", "k=2", "scores.share=true")
    grid.reaches("one_shot", 5)
    ended = grid.run("algo=greedy", "k=2", "scores.share=true")
    assert ended.status == 0, ended.out + ended.err
    assert grid.cluster.call(
        "squeue", "--noheader", "--format=%T", f"--jobs={grid.job('one_shot')}"
    ).split() == ["RUNNING"]
    assert ended.result("greedy")["search"]["evaluations_shared"] >= 4, (
        "of the 5 written scores, one is the dense model's"
    )
    grid.go()
    grid.cluster.ends(grid.job("one_shot"), "COMPLETED")


THREE = ("-m", "algo=one_shot,greedy,beam", "k=2", "launcher.parallel=2")


def status(grid: Grid, *words: str) -> subprocess.CompletedProcess[str]:
    return depth_pruning(grid.folder, "status", *words, str(grid.results))


def test_cells_are_shown_and_cancelled_and_the_same_command_submits_them_again(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"), one_shot=(3, "raise"))
    grid.submit(*THREE)
    grid.reaches("greedy", 5)
    grid.cluster.ends(grid.job("one_shot"), "FAILED")
    grid.reaches("beam", 5)
    shown = status(grid)
    rows = {
        name: next(line for line in shown.stdout.splitlines() if name in line)
        for name in ("greedy", "one_shot")
    }
    assert shown.returncode == 1, "a cell has failed"
    assert ("running" in rows["greedy"], "4/" in rows["greedy"]) == (True, True)
    assert "RuntimeError: a planned fault" in rows["one_shot"]
    assert "launch.log" in rows["one_shot"]
    assert "3 cells: 2 running, 1 failed" in shown.stdout
    assert "2 cells " in status(grid, "cancel").stdout
    for part in ("greedy", "beam"):
        grid.cluster.ends(grid.job(part), "CANCELLED")
    assert "cancelled" in status(grid).stdout
    grid.go()
    ended = grid.run(*THREE)
    assert "0 in flight, 3 " in ended.err
    assert len(list(submissions(grid.results))) == 2
    grid.completes(*THREE)
    assert status(grid).returncode == 0
    assert "3 cells " in depth_pruning(grid.folder, "track", str(grid.results)).stderr


def test_a_results_folder_that_cannot_be_written_for_a_moment(grid: Grid) -> None:
    words = ("-m", "algo=one_shot,greedy", "k=2")
    grid.expect(greedy=(5, "hold"))
    grid.submit(*words)
    until(lambda: any("one_shot" in key for key in done(grid)), "the other cell")
    grid.reaches("greedy", 5)
    job, away = grid.job("greedy"), grid.folder / "away"
    grid.results.rename(away)
    grid.results.touch()  # root can write to every folder, but not into a file
    grid.go()
    grid.cluster.ends(job, "FAILED")
    grid.results.unlink()
    away.rename(grid.results)
    grid.cluster.ends(grid.job("one_shot"), "COMPLETED")
    greedy = next(cell for cell in cell_states(grid.results).values() if "greedy" in cell.key)
    assert greedy.state is StateName.FAILED
    assert "SLURM: FAILED" in greedy.reason
    grid.completes(*words)


def done(grid: Grid) -> list[str]:
    return [key for key, cell in cell_states(grid.results).items() if cell.state is StateName.DONE]


def test_a_tracking_server_that_is_down_costs_no_cell(grid: Grid) -> None:
    cells = ("-m", "algo=one_shot,greedy", "k=1")
    ended = grid.run(*cells, "tracker.uri=http://127.0.0.1:9", tracker="mlflow")
    assert ended.status == 0, ended.out + ended.err
    assert "tracker.uri=URI" in ended.err
    assert "depth-pruning track RESULTS" in ended.err
    for part in ("one_shot", "greedy"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*cells)
