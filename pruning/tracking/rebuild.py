"""Record every cell of a results folder in MLflow again, from its files.

python -m pruning.track [RESULTS] [--uri URI]

Each cell is recorded at its recorded tracker.uri; cells without one go to the SQLite file beside the results. For
tracker=server, runs of dead jobs are closed. The table of published masks is recorded, too. With --uri, all go to
that store. `make track` does the same.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pruning.core.errors import DamagedError, InputError, PruningError, first_line, merged_error
from pruning.core.recorded import CLASS, OPTION, recorded
from pruning.core.result import NAME
from pruning.runs.tracker import Tracker
from pruning.tracking.mlflow_file import DATABASE, MLflow
from pruning.tracking.store_uri import check_uri
from pruning.tracking.table_run import FILES, TABLES

log = logging.getLogger(__name__)


Grouped = list[tuple[Tracker, list[Path]]]


def trackers(results: Path) -> tuple[Grouped, list[PruningError]]:
    """Each tracker that cells of a results folder use, with the folders of those cells that have a result.

    Cells whose configuration cannot be read are left out; the second list has an error for each.
    """
    grouped: dict[Tracker, list[Path]] = {}
    errors: list[PruningError] = []
    for path in sorted(results.glob("*/config.yaml")):
        try:
            tracker = _tracker(_settings(path))
        except PruningError as error:
            errors.append(PruningError(f"{path.parent.name} is not recorded: {error}"))
            continue
        done = (path.parent / NAME).exists()
        grouped.setdefault(tracker, []).extend([path.parent] if done else [])
    return list(grouped.items()), errors


def record_all(results: Path) -> int:
    """Record each cell that has a result, with its tracker; returns the number of these cells.

    Raises PruningError, after all other cells are recorded, if a store or a cell caused an error.
    """
    return _record(results, *trackers(results))


def _record(results: Path, grouped: Grouped, errors: list[PruningError]) -> int:
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


def _settings(path: Path) -> Mapping[str, Any]:
    """The tracker's settings in a cell's configuration. Raises DamagedError if the file cannot be read."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DamagedError(
            f"{path} is damaged ({first_line(error)}): move the cell's folder away."
        ) from error
    settings = config.get("tracker", {}) if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise DamagedError(f"{path} is damaged (no configuration of a cell): move the cell's folder away.")
    return settings


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
    table = results / TABLES
    if not cells and not (table / FILES[0]).exists():
        raise InputError(f"no cell found in {results}: give the folder that `paths.results` named.")
    done = [folder for folder in cells if (folder / NAME).exists()]
    if asked.uri:
        check_uri(asked.uri, "--uri")
    grouped, errors = ([(MLflow(asked.uri), done)], []) if asked.uri else trackers(results)
    if (table / FILES[0]).exists():
        (grouped[0][0] if grouped else MLflow()).table(results, table)
        log.info("the table of published masks is recorded")
    _record(results, grouped, errors)
