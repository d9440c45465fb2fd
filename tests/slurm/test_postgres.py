"""Live runs on an MLflow server over PostgreSQL (from Debian's packages) equal collected ones."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.helpers.mlflow_runs import described, runs

PATIENCE = 180  # seconds until MLflow's server answers: it creates all its tables first
GRID = ("-m", "algo=one_shot,greedy", "k=2", "study=both", "scores.share=false")


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def programs() -> Path:
    """The folder of PostgreSQL's commands; installs PostgreSQL if it is missing."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        if shutil.which("apt-get") is None:
            pytest.skip("there is no PostgreSQL, and no apt-get to install it")
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "postgresql"]
        subprocess.run(command, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1]


def as_postgres(*command: str) -> None:
    """Run a command as the user postgres: PostgreSQL refuses to run as root."""
    subprocess.run(["runuser", "-u", "postgres", "--", *command], check=True, capture_output=True, cwd="/")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a private PostgreSQL; yields the URI of an empty database."""
    if os.environ.get("TEST_SLURM") != "1":
        pytest.skip("make test-slurm runs it: PostgreSQL is installed and started as root")
    if os.geteuid() != 0:
        pytest.skip("starting PostgreSQL as the user postgres needs root")
    pytest.importorskip("psycopg2", reason="the driver of PostgreSQL is not installed")
    bin_, folder, number = programs(), Path("/tmp") / f"depth-pruning-postgres-{os.getpid()}", port()
    folder.mkdir()
    shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    try:
        as_postgres(str(bin_ / "initdb"), "-D", data, "--auth=trust", "--no-sync")
        options = f"-p {number} -k {folder} -h 127.0.0.1 -c fsync=off"
        as_postgres(str(bin_ / "pg_ctl"), "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        as_postgres(str(bin_ / "createdb"), "-h", str(folder), "-p", str(number), "mlflow")
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{number}/mlflow"
    finally:
        with suppress(subprocess.CalledProcessError):
            as_postgres(str(bin_ / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, number = tmp_path_factory.mktemp("server"), port()
    where = ["--host", "127.0.0.1", "--port", str(number), "--workers", "1"]
    stores = ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *stores],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
    try:
        answers(f"http://127.0.0.1:{number}/health", process, folder / "log")
        yield f"http://127.0.0.1:{number}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError(f"MLflow's server did not start: {log.read_text()[-2000:]}")


def compare(here: str, there: str, count: int) -> None:
    expected, live = runs(here), runs(there)
    assert live.keys() == expected.keys()
    assert len(live) == count
    for name, run in expected.items():
        assert described(there, live[name]) == described(here, run)


def test_jobs_on_a_server_over_postgresql_give_the_runs_of_the_collector(
    launch: Command, tmp_path: Path, server: str
) -> None:
    jobs: Sequence[str] = ("launcher=processes", "launcher.parallel=2", "tracker.every=0.2")
    live = launch(*GRID, *jobs, "tracker=server", f"tracker.uri={server}")
    assert live.status == 0, live.err
    collected = launch(*GRID, "tracker=mlflow", f"paths.results={tmp_path / 'collected'}")
    assert collected.status == 0, collected.err
    compare(f"sqlite:///{tmp_path / 'collected' / 'mlflow.db'}", server, 2)
