"""Record cells in an MLflow store that is a file, or a server that is written to after the cells are done."""

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

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


@dataclass(frozen=True)
class MLflow:
    """Flat MLflow runs, one a cell, tagged with the study; by default in an SQLite file beside the results.

    Cells only write files. The command that started them, or `python -m pruning.track`, is the one writer here.
    """

    uri: str | None = None
    experiment: str = "depth-pruning"

    def start(self, results: Path) -> None:
        """Create database and experiment under a lock: two processes that do it at once corrupt it."""
        self._open(results)

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Recorded when it is done."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Recorded by the one writer."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record each cell, unless the very same result is there already."""
        client, experiment = self._open(results)
        for folder in folders:
            record_run(client, experiment, folder)
        study_tags.record_studies(client, experiment, results)

    def _open(self, results: Path) -> tuple[Any, str]:
        with FileLock(results / "mlflow.lock"):
            client = connect(self.uri or f"sqlite:///{results / 'mlflow.db'}")
            found = client.get_experiment_by_name(self.experiment)
            location = None if self.uri else (results / "mlflow-artifacts").as_uri()
            if found is not None and location in (None, found.artifact_location):
                return client, found.experiment_id
            if found is not None:  # the folder was moved, and MLflow holds absolute paths: begin a new view
                client.rename_experiment(found.experiment_id, f"{self.experiment} {found.artifact_location}")
                client.delete_experiment(found.experiment_id)
            return client, client.create_experiment(self.experiment, artifact_location=location)
