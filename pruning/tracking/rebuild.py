"""Record every cell of a results folder in MLflow again, from its files.

python -m pruning.track [RESULTS] [--uri URI]

Each cell is recorded at its recorded tracker.uri; cells without one go to the SQLite file beside the results. For
tracker=server, runs of dead jobs are closed. With --uri, all cells go to that store. `make track` does the same.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pruning.core.recorded import CLASS, OPTION, recorded
from pruning.core.result import NAME
from pruning.runs.tracker import Tracker
from pruning.tracking.mlflow_file import MLflow

log = logging.getLogger(__name__)


def trackers(results: Path) -> list[tuple[Tracker, list[Path]]]:
    """Each tracker that cells of a results folder use, with the folders of those cells that have a result."""
    grouped: dict[Tracker, list[Path]] = {}
    for path in sorted(results.glob("*/config.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8")).get("tracker", {})
        done = (path.parent / NAME).exists()
        grouped.setdefault(_tracker(settings), []).extend([path.parent] if done else [])
    return list(grouped.items())


def record_all(results: Path) -> int:
    """Record each cell that has a result, with its tracker; returns the number of these cells.

    Raises the errors of the trackers.
    """
    grouped = trackers(results)
    for tracker, folders in grouped:
        tracker.record(results, folders)
    return sum(len(folders) for _, folders in grouped)


def _tracker(settings: Mapping[str, Any]) -> Tracker:
    """The tracker in a cell's recorded settings; if there is none, the one that writes to the SQLite file."""
    from pruning.tracking.mlflow_server import Server

    plain = recorded(settings)
    kind = plain.get(CLASS)
    arguments = {name: value for name, value in plain.items() if name not in (CLASS, OPTION)}
    if kind == "Server":
        return Server(**arguments)
    return MLflow(**arguments) if kind == "MLflow" else MLflow()


def main() -> None:
    """The command `python -m pruning.track`."""
    parser = argparse.ArgumentParser(prog="python -m pruning.track", description=__doc__)
    parser.add_argument("results", nargs="?", default="results", help="the folder of the cells")
    parser.add_argument("--uri", help="an MLflow store: sqlite:///FILE, http://HOST:PORT")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Path(asked.results).resolve()
    cells = sorted(path.parent for path in results.glob("*/config.yaml"))
    if not cells:
        raise SystemExit(f"no cell found in {results}")
    done = [folder for folder in cells if (folder / NAME).exists()]
    for tracker, folders in [(MLflow(asked.uri), done)] if asked.uri else trackers(results):
        tracker.record(results, folders)
        store = getattr(tracker, "uri", None) or results / "mlflow.db"
        log.info("%d cells recorded in %s", len(folders), store)
