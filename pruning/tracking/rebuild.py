"""Record every cell of a results folder in MLflow again, from its files.

python -m pruning.track [RESULTS] [--uri URI]

Each cell is recorded at its recorded tracker.uri; cells without one go to the SQLite file beside the results. For
tracker=server, runs of dead jobs are closed. With --uri, all cells go to that store. `make track` does the same.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pruning.core.errors import PruningError, first_line, merged_error
from pruning.core.recorded import CLASS, OPTION, recorded
from pruning.core.result import NAME
from pruning.runs.tracker import Tracker
from pruning.tracking.mlflow_file import DATABASE, MLflow
from pruning.tracking.store_uri import check_uri

log = logging.getLogger(__name__)


def trackers(results: Path) -> list[tuple[Tracker, list[Path]]]:
    """Each tracker that cells of a results folder use, with the folders of those cells that have a result.

    If the configuration of a cell cannot be read, warn and leave that cell out.
    """
    grouped: dict[Tracker, list[Path]] = {}
    for path in sorted(results.glob("*/config.yaml")):
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")).get("tracker", {})
            tracker = _tracker(settings)
        except (
            OSError,
            UnicodeDecodeError,
            yaml.YAMLError,
            AttributeError,
            TypeError,
            PruningError,
        ) as error:
            log.warning(
                "%s is not recorded: its config.yaml is damaged (%s)", path.parent.name, first_line(error)
            )
            continue
        done = (path.parent / NAME).exists()
        grouped.setdefault(tracker, []).extend([path.parent] if done else [])
    return list(grouped.items())


def record_all(results: Path) -> int:
    """Record each cell that has a result, with its tracker; returns the number of these cells.

    Raises PruningError, after all trackers have been used, if a store or a cell caused an error.
    """
    return _record(results, trackers(results))


def _record(results: Path, grouped: Sequence[tuple[Tracker, list[Path]]]) -> int:
    errors: list[PruningError] = []
    for tracker, folders in grouped:
        try:
            tracker.record(results, folders)
        except PruningError as error:
            errors.append(error)
            continue
        log.info("%d cells recorded in %s", len(folders), getattr(tracker, "uri", None) or results / DATABASE)
    if errors:
        raise merged_error(errors)
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
        raise SystemExit(f"no cell found in {results}: give the folder that `paths.results` named.")
    done = [folder for folder in cells if (folder / NAME).exists()]
    try:
        if asked.uri:
            check_uri(asked.uri, "--uri")
        _record(results, [(MLflow(asked.uri), done)] if asked.uri else trackers(results))
    except PruningError as error:
        raise SystemExit(str(error)) from error
