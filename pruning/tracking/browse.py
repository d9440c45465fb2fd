"""Browse the runs of a results folder in MLflow.

depth-pruning ui [RESULTS] [port=5000]

RESULTS is the folder of the cells; the default is `results`. If the port is taken, the next free one is used. No
database is created: `depth-pruning track` does that.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pruning.config.words import results_of
from pruning.core.errors import InputError, PruningError, first_line
from pruning.core.terminal import command_words, show
from pruning.launcher.local import end_family
from pruning.tracking.client import connect, plain_errors
from pruning.tracking.mlflow_run import VIEW
from pruning.tracking.store import DATABASE, MLflow

PORTS = 100  # the number of ports that are tried


def main() -> None:
    """The command `depth-pruning ui`: run MLflow's server until Ctrl-C, and print its address."""
    results, wanted = asked(command_words())
    number = experiment_of(results)
    check_artifacts(results)
    port = free_port(wanted)
    store = ["--backend-store-uri", f"sqlite:///{results / DATABASE}"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # MLflow must not outlive this command
    show("starting MLflow")
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "mlflow", "ui", *store, *where]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not _is_open(port):
                if server.poll() is not None:
                    log.seek(0)
                    raise PruningError(
                        f"MLflow has ended ({first_line(log.read().strip().rpartition(chr(10))[2])})."
                    )
                time.sleep(0.2)
            # MLflow 3.17 opens an experiment in its GenAI view unless the address asks for model training.
            words = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
            show(f"ready    http://127.0.0.1:{port}/#/experiments/{number}/runs?{words}\nCtrl-C ends it.")
            server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            end_family(server.pid)
            server.wait()


def asked(words: Sequence[str]) -> tuple[Path, int]:
    """The results folder and the port from the arguments. Raises InputError for other arguments."""
    results, given = results_of(words, "port")
    port = given.get("port", "5000")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"port={port} is not valid: choose 1 to 65535.")
    return results, int(port)


def free_port(wanted: int) -> int:
    """The first unused port, from `wanted` on. Raises InputError if `PORTS` ports are in use."""
    ports = range(wanted, min(wanted + PORTS, 65536))
    port = next((port for port in ports if not _is_open(port)), None)
    if port is None:
        raise InputError(f"port={wanted} and the {PORTS - 1} after it are taken: choose another.")
    if port != wanted:
        show(f"port {wanted} is taken: using {port}")
    return port


def _is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def experiment_of(results: Path) -> str:
    """The id of the results' experiment. Raises PruningError if the database cannot be used or has no runs."""
    database = results / DATABASE
    if database.is_symlink():
        raise PruningError(f"{database} is a symbolic link: give the folder that it leads to.")
    with plain_errors(database):
        experiment = connect(f"sqlite:///{database}").get_experiment_by_name(MLflow.experiment)
    if experiment is None:
        raise PruningError(f"{database} has no runs: `depth-pruning track {results}` records them.")
    return str(experiment.experiment_id)


# The columns of a store's tables that name the folders from which MLflow's server sends files to the browser.
ARTIFACTS = {
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags where key = 'mlflow.artifactLocation'": ("value",),
}


def check_artifacts(results: Path) -> None:
    """Raise PruningError if the store lets the browser read files outside the results folder.

    Folders that do not exist are allowed, because a moved results folder keeps the runs of its old place.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    database, root = results / DATABASE, results.resolve()
    named = set[str]()
    with (
        plain_errors(database),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as store,
    ):
        tables = {name for (name,) in store.execute("select name from sqlite_master")}
        for rows, columns in ARTIFACTS.items():
            if rows.partition(" ")[0] in tables:
                found = store.execute(f"select {', '.join(columns)} from {rows}")
                named |= {uri for row in found for uri in row if uri}
        for uri in sorted(named):
            path = Path(local_file_uri_to_path(uri)) if is_local_uri(uri) else None
            if path is None or (path.exists() and not path.resolve().is_relative_to(root)):
                raise PruningError(
                    f"{database} names the artifact folder {uri}, and the browser may read only files inside of "
                    f"{results}. Move the database away: `depth-pruning track {results}` builds it again from the "
                    "files of the results."
                )
