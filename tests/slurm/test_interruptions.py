"""Jobs that are stopped from outside and start again: nothing that was written is computed twice."""

from __future__ import annotations

from tests.slurm.conftest import Cluster, Grid, until

GRID = ("-m", "algo=greedy,one_shot", "k=2")  # one_shot is the other cell, which always finishes


def test_a_time_limit_puts_a_cell_back_into_the_queue(grid: Grid) -> None:
    grid.expect(greedy=(5, "hold"))
    words = (*GRID, "model.resources.minutes=2", "launcher.warning_seconds=70")
    ended = grid.run(*words)
    assert ended.status == 0, ended.out + ended.err
    for part in ("greedy", "one_shot"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    assert restarts(grid.cluster, grid.job("greedy")) >= 1
    assert "this job is timed-out" in grid.log("greedy")
    grid.completes(*words)


def test_preemption_with_the_jobs_own_signal(grid: Grid) -> None:
    preempt(grid, warned=True)  # below ten minutes, submitit treats each signal as a time limit


def test_preemption_without_a_signal(grid: Grid) -> None:
    preempt(grid, "+launcher.options.signal=CONT@1", warned=False)


def preempt(grid: Grid, *options: str, warned: bool) -> None:
    """Preempt a running cell: a job of a partition with a higher priority takes both nodes.

    Without a warning SLURM kills the job's process and its `srun` together, so what the process wrote last can be
    missing from the log. Only a warning's line is certain to be there.
    """
    words = (*GRID, *options, "launcher.partition=low")
    grid.expect(greedy=(5, "hold"))
    grid.submit(*words)
    grid.reaches("greedy", 5)
    job, urgent = grid.job("greedy"), ("--nodes=2", "--exclusive", "--partition=main", "--output=/dev/null")
    other = grid.cluster.call("sbatch", "--parsable", *urgent, "--wrap=sleep 2").strip()
    until(lambda: restarts(grid.cluster, job) >= 1, "the cell to be preempted")
    grid.go()
    ended = grid.run(*words)
    assert ended.status == 0, ended.out + ended.err
    for number in (other, job, grid.job("one_shot")):
        grid.cluster.ends(number, "COMPLETED")
    assert ("this job is timed-out" in grid.log("greedy")) == warned
    grid.completes(*words)


def restarts(cluster: Cluster, job: str) -> int:
    """The number of times that SLURM has restarted a job."""
    shown = cluster.call("scontrol", "show", "job", job)
    return int(shown.partition("Restarts=")[2].split()[0])


def test_an_administrator_requeues_and_cancels_and_restarts_a_finished_job(grid: Grid) -> None:
    words = ("-m", "algo=greedy,beam,contiguous", "k=2")
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"))
    grid.submit(*words)
    for part in ("greedy", "beam"):
        grid.reaches(part, 5)
    grid.cluster.call("scontrol", "requeue", grid.job("greedy"))
    grid.cluster.call("scancel", grid.job("beam"))
    grid.cluster.ends(grid.job("beam"), "CANCELLED")
    grid.go()
    ended = grid.run(*words)
    assert ended.status == 0, "the cancelled cell is submitted again: " + ended.out
    assert restarts(grid.cluster, grid.job("greedy")) == 1
    for part in ("greedy", "beam", "contiguous"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*words)
    finished = grid.job("contiguous")
    grid.cluster.ends(finished, "COMPLETED")
    before = {path: path.stat().st_mtime_ns for path in grid.results.glob("*contiguous*/*")}
    grid.cluster.call("scontrol", "requeue", finished)
    until(lambda: grid.cluster.state(finished) != "COMPLETED", "the finished job to start again")
    grid.cluster.ends(finished, "COMPLETED")
    assert {path: path.stat().st_mtime_ns for path in grid.results.glob("*contiguous*/*")} == before


def test_a_node_dies(grid: Grid) -> None:
    words = ("-m", "algo=greedy,beam", "k=2", "model.resources.cpus_per_rank=3")  # one cell per node
    grid.expect(greedy=(5, "hold"), beam=(5, "hold"))
    grid.submit(*words)
    for part in ("greedy", "beam"):
        grid.reaches(part, 5)
    job, node = grid.job("greedy"), grid.cluster.node(grid.job("greedy"))
    assert node != grid.cluster.node(grid.job("beam"))
    grid.cluster.script("stop-node", node)
    try:
        until(lambda: restarts(grid.cluster, job) == 1, "the job to leave the dead node")
        grid.go()
        ended = grid.run(*words)
        assert ended.status == 0, ended.out + ended.err
    finally:
        grid.cluster.script("start-node", node)
    for part in ("greedy", "beam"):
        grid.cluster.ends(grid.job(part), "COMPLETED")
    grid.completes(*words)
