"""The resources of jobs, and the order in which cells run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pruning.launcher.job import ROOT
from pruning.launcher.submission import submissions
from tests.conftest import N_BLOCKS
from tests.slurm.conftest import Grid

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
        asked[record.tasks[0].config["model"]["name"]] = set(lines)
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
