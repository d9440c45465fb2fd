"""Record finished cells in an MLflow store: an SQLite file, or a server that gets only finished cells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pruning.core import study_tags
from pruning.runs.tracker import Note, silent
from pruning.tracking.client import connect
from pruning.tracking.mlflow_run import record_run
from pruning.tracking.new_store import create_store

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


@dataclass(frozen=True)
class MLflow:
    """Records one MLflow run per cell, with a tag that names the cell's studies. Runs are not nested.

    The default store is an SQLite file beside the results. Cells write only to their folders. The command that
    started the cells, or `python -m pruning.track`, writes the store.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"

    def start(self, results: Path) -> None:
        """Create database and experiment, under a lock: two processes at once would corrupt the database."""
        self._open(results)

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Does nothing: a cell is recorded only after it has ended."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Does nothing: `record` records the cell."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell unless the store already has its current result."""
        client, experiment = self._open(results)
        for folder in folders:
            record_run(client, experiment, folder)
        study_tags.record_studies(client, experiment, results)

    def _open(self, results: Path) -> tuple[Any, str]:
        with FileLock(results / "mlflow.lock"):
            if self.uri is None:
                create_store(results / "mlflow.db")
            client = connect(self.uri or f"sqlite:///{results / 'mlflow.db'}")
            known = client.get_experiment_by_name(self.experiment)
            location = None if self.uri else (results / "mlflow-artifacts").as_uri()
            if known is not None and location in (None, known.artifact_location):
                return client, known.experiment_id
            # If the results folder was moved, start a new experiment: MLflow stores absolute paths.
            if known is not None:
                client.rename_experiment(known.experiment_id, f"{self.experiment} {known.artifact_location}")
                client.delete_experiment(known.experiment_id)
            return client, client.create_experiment(self.experiment, artifact_location=location)
