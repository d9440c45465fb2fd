"""Mirror results into a tracker. The files are the truth: a tracker can be lost and made again from them.

python -m pruning.track [RESULTS] [--uri URI]

Record every cell of a results folder in MLflow, as `make track` does: each at its own tracker.uri, cells without one
in the SQLite file beside the results; on a server of tracker=server, runs of dead jobs are closed. With --uri,
everything goes there.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import yaml
from filelock import FileLock

from pruning import track_studies
from pruning.track_runs import record

if TYPE_CHECKING:
    from pruning.cell import Cell

log = logging.getLogger(__name__)

# Told while a cell is searched: the number of masks that are scored in full, and the best loss so far.
Note: TypeAlias = Callable[[int, float], None]


class Tracker(Protocol):
    """What every tracker offers. `start` and `record` may raise: the caller warns and goes on. The others do not."""

    def start(self, results: Path) -> None:
        """Make ready, once, before any cell runs."""
        ...

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """A context in which a cell is run."""
        ...

    def finished(self, folder: Path) -> None:
        """A cell has a result, or a failure, in its folder."""
        ...

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record the cells in these folders; recording one twice is the same as once."""
        ...


@contextmanager
def silent() -> Iterator[Note]:
    """Nothing is told."""
    yield lambda *_: None


@dataclass(frozen=True)
class Nothing:
    """No tracker."""

    def start(self, results: Path) -> None:
        """Nothing to do."""

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Nothing to do."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Nothing to do."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Nothing to do."""


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
            record(client, experiment, folder)
        track_studies.record(client, experiment, results)

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


def connect(uri: str) -> Any:
    """An MLflow client. One of a server that does not answer gives up after seconds, not after minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow sets these to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def trackers(results: Path) -> list[tuple[Tracker, list[Path]]]:
    """The trackers that cells of a folder are recorded with, each with the folders of those that have a result."""
    alike: dict[Tracker, list[Path]] = {}
    for path in sorted(results.glob("*/config.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8")).get("tracker", {})
        done = (path.parent / "result.json").exists()
        alike.setdefault(_tracker(settings), []).extend([path.parent] if done else [])
    return list(alike.items())


def _tracker(settings: Mapping[str, Any]) -> Tracker:
    """Where a cell's own settings say that it is recorded; cells without a tracker go where most do."""
    from pruning.track_server import Server

    kind = str(settings.get("_target_")).rpartition(".")[2]
    own = {name: value for name, value in settings.items() if name != "_target_"}
    if kind == "Server":
        return Server(**own)
    return MLflow(**own) if kind == "MLflow" else MLflow()


def main() -> None:
    """Record every cell of a results folder."""
    parser = argparse.ArgumentParser(prog="python -m pruning.track", description=__doc__)
    parser.add_argument("results", nargs="?", default="results", help="the folder of the cells")
    parser.add_argument("--uri", help="an MLflow store: sqlite:///FILE, http://HOST:PORT")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Path(asked.results).resolve()
    cells = sorted(path.parent for path in results.glob("*/config.yaml"))
    if not cells:
        raise SystemExit(f"no cell found in {results}")
    done = [folder for folder in cells if (folder / "result.json").exists()]
    for tracker, folders in [(MLflow(asked.uri), done)] if asked.uri else trackers(results):
        tracker.record(results, folders)
        where = getattr(tracker, "uri", None) or results / "mlflow.db"
        log.info("%d cells recorded in %s", len(folders), where)


if __name__ == "__main__":
    main()
