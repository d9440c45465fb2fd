"""Browse the runs of a results folder in MLflow.

python -m pruning.ui [RESULTS] [--port 5000]

Prints the address of the page that shows the runs, then starts the server of MLflow until Ctrl-C. `make ui` does the
same. No database is created: `make track` does that.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pruning.core.errors import PruningError
from pruning.tracking.client import connect
from pruning.tracking.mlflow_file import DATABASE, MLflow
from pruning.tracking.runs_view import address, show_as_training_runs
from pruning.tracking.store_errors import plain_errors


def page(results: Path, port: int) -> str:
    """The address of the page with the runs of a results folder; old experiments are set to show them.

    Raises PruningError if there is no database, or if it cannot be used.
    """
    database = results / DATABASE
    if database.is_symlink():
        raise PruningError(f"{database} is a symbolic link: give the folder that it leads to.")
    with plain_errors(database):
        client = connect(f"sqlite:///{database}")
        experiment = client.get_experiment_by_name(MLflow.experiment)
        if experiment is None:
            raise PruningError(f"{database} has no runs: `python -m pruning.track {results}` records them.")
        show_as_training_runs(client, experiment.experiment_id)
    return address(f"http://localhost:{port}", experiment.experiment_id)


def main() -> None:
    """The command `python -m pruning.ui`."""
    parser = argparse.ArgumentParser(prog="python -m pruning.ui", description=__doc__)
    parser.add_argument("results", nargs="?", default="results", help="the folder of the cells")
    parser.add_argument("--port", type=int, default=5000)
    asked = parser.parse_args()
    results = Path(asked.results).expanduser().resolve()
    shown = page(results, asked.port)
    print(f"When MLflow has started, the runs are at\n  {shown}", flush=True)  # noqa: T201 - the command's output
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    store = ["--backend-store-uri", f"sqlite:///{results / DATABASE}"]
    where = ["--host", "127.0.0.1", "--port", str(asked.port)]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *store, *where])  # Ctrl-C reaches MLflow
