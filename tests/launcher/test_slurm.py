"""Requests to SLURM, with commands that only record their arguments, and settings that launchers refuse.

`tests/slurm` uses a real cluster.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core.errors import InputError
from pruning.launcher import scheduler
from pruning.launcher.local import LocalPool
from pruning.launcher.scheduler import Info
from pruning.launcher.slurm import Slurm
from pruning.launcher.submission import submission_lock, submissions
from pruning.models.handle import Resources
from tests.helpers.launchers import commands, submission, task

LARGE = Resources(nodes=2, ranks=2, gpus_per_rank=4, cpus_per_rank=6, memory_gb=100, minutes=90)
NUMBERED = 'n=$(grep -c "^sbatch" $(dirname $0)/../calls)\necho "Submitted batch job $n"'


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scripts = {"sbatch": NUMBERED, "scontrol": "echo 'MaxArraySize            = 4'"}
    scripts |= dict.fromkeys(("srun", "squeue", "scancel"), "")
    return commands(tmp_path, monkeypatch, scripts)


def script(results: Path, number: int) -> list[str]:
    """The lines of the batch script of one submission."""
    record = list(submissions(results))[number]
    return next(iter(record.folder.glob("*_submission.sh"))).read_text().splitlines()


def sbatch(calls: Path) -> list[str]:
    return [line for line in calls.read_text().splitlines() if line.startswith("sbatch")]


def test_one_array_for_each_kind_of_resources(tmp_path: Path, calls: Path) -> None:
    tasks = [task("a"), task("big", resources=LARGE), task("b"), task("c")]
    Slurm(parallel=3, partition="gpu", options={"reservation": "day"}).submit(tmp_path, tasks, "/here")
    assert len(sbatch(calls)) == 2
    small, large = script(tmp_path, 0), script(tmp_path, 1)
    assert "#SBATCH --array=0-2%1" in small
    assert not any("--array" in line for line in large), "one cell is one job"
    asked = ("nodes=2", "ntasks-per-node=2", "gpus-per-node=8", "cpus-per-task=6", "time=90", "mem=102400MB")
    assert {f"#SBATCH --{line}" for line in asked} <= {*large}
    given = ("partition=gpu", "reservation=day", "requeue", "signal=USR2@120")
    assert {f"#SBATCH --{line}" for line in given} <= {*small}
    jobs = {key: job for record in submissions(tmp_path) for key, job in record.jobs.items()}
    assert jobs == {"a": "1_0", "b": "1_1", "c": "1_2", "big": "2"}
    assert all(record.complete for record in submissions(tmp_path))


def test_a_job_imports_the_copy_of_the_code_and_asks_for_no_gpu_without_need(
    tmp_path: Path, calls: Path
) -> None:
    cell = task("a", resources=Resources(gpus_per_rank=0))
    Slurm(setup=["module load cuda"]).submit(tmp_path, [cell], "/here")
    lines = script(tmp_path, 0)
    assert not any("gpus-per" in line for line in lines)
    (record,) = submissions(tmp_path)
    assert f"export PYTHONPATH={tmp_path / 'code' / record.code}${{PYTHONPATH:+:$PYTHONPATH}}" in lines
    assert (tmp_path / "code" / record.code / "pruning" / "launcher" / "job.py").exists()
    assert lines.index("module load cuda") > lines.index("export PYTHONSAFEPATH=1")


def test_arrays_are_cut_to_what_the_cluster_takes_and_bounded_together(tmp_path: Path, calls: Path) -> None:
    Slurm(parallel=7).submit(tmp_path, [task(f"{n}") for n in range(10)], "/here")
    assert len(sbatch(calls)) == 3
    arrays = [next(line for line in script(tmp_path, n) if "--array" in line) for n in range(3)]
    assert arrays == ["#SBATCH --array=0-3%2", "#SBATCH --array=0-3%2", "#SBATCH --array=0-1%2"]


def test_a_refusal_is_reported_and_nothing_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "echo 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1"
    commands(tmp_path, monkeypatch, {"srun": "", "sbatch": refusing, "scontrol": ""})
    with pytest.raises(InputError, match=r"1 cells .*invalid partition specified: gpu"):
        Slurm(partition="gpu").submit(tmp_path, [task("a")], "/here")
    (record,) = submissions(tmp_path)
    assert (record.complete, record.jobs) == (True, {})


@pytest.mark.parametrize(
    ("launcher", "asked", "message"),
    [
        (Slurm(parallel=0), Resources(), "launcher.parallel=0"),
        (Slurm(), Resources(minutes=2), "minutes=2 of tiny .*launcher.warning_seconds=120"),
        (Slurm(), Resources(ranks=0), "tiny.*model.resources.ranks=0"),
        (Slurm(), Resources(gpus_per_rank=-1), "gpus_per_rank=-1"),
        (LocalPool(parallel=0), Resources(), "launcher.parallel=0"),
        (LocalPool(), Resources(nodes=2), "nodes=2 of tiny"),
        (LocalPool(), Resources(ranks=2, gpus_per_rank=2), "tiny .*4 GPUs"),
    ],
)
def test_what_a_cluster_or_a_machine_cannot_do_is_refused(
    calls: Path, launcher: Slurm | LocalPool, asked: Resources, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    with pytest.raises(InputError, match=message):
        launcher.check({"tiny": asked})


def test_a_machine_without_slurm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"scontrol .*launcher=processes"):
        Slurm().check({})


SQUEUE = "7_0|RUNNING|None\n7_1|PENDING|Resources\n7_2|FAILED|NonZeroExitCode\n7_3|TIMEOUT|TimeLimit"


def test_squeue_is_asked_first_and_sacct_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {
        "squeue": f"cat <<X\n{SQUEUE}\nX",
        "sacct": "echo '5_0|CANCELLED by 0|0:15'\necho '5_1|COMPLETED|0:0'",
    }
    seen = commands(tmp_path, monkeypatch, scripts)
    infos = scheduler.ask(["x"], {"7_0", "7_1", "7_2", "7_3", "5_0", "6_0"})
    assert infos == {
        "7_0": Info(active=True),
        "7_1": Info(active=True, waiting=True, reason="Resources"),
        "7_2": Info(active=False, reason="NonZeroExitCode (SLURM: FAILED)"),
        "7_3": Info(active=False, reason=f"{scheduler.MEANINGS['TIMEOUT']} (SLURM: TIMEOUT)"),
        "5_0": Info(active=False, reason="cancelled (SLURM: CANCELLED)"),
    }
    assert [line.split()[0] for line in seen.read_text().splitlines()] == ["squeue", "sacct"]


def test_a_cluster_without_accounting_reports_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(tmp_path, monkeypatch, {"squeue": "", "sacct": "echo disabled >&2; exit 1"})
    assert scheduler.ask(["x"], {"7_0"}) == {}


def test_a_silent_scheduler_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path, monkeypatch, {"squeue": "echo 'Unable to contact slurm controller' >&2; exit 1"})
    with pytest.raises(InputError, match=r"squeue .*Unable to contact slurm controller"):
        scheduler.ask(["x"], {"7_0"})


def test_what_a_dead_command_left_is_cancelled_before_anything_is_submitted(
    tmp_path: Path, calls: Path
) -> None:
    record = submission(tmp_path, task("a"))
    with submission_lock(tmp_path):
        pass
    assert f"scancel --quiet --name={record.name}" in calls.read_text()
    assert next(iter(submissions(tmp_path))).complete
