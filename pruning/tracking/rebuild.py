"""Record every cell of a results folder in MLflow again, from its files.

depth-pruning track [RESULTS] [tracker.uri=URI]

Cells go to the SQLite file in RESULTS, or to the store URI. A recorded tracker.uri is used only if the command or
MLFLOW_TRACKING_URI names it too, because RESULTS can come from somebody else. For tracker=server, runs of dead jobs
are closed. The table of published masks is recorded, too.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pruning.config.app import build
from pruning.config.words import names_folder
from pruning.core.errors import DamagedError, InputError, PruningError, first_line, merged_error
from pruning.core.records import CLASS, NAME, outward, without_option
from pruning.runs.cell import Tracker
from pruning.tracking.client import check_uri, connect, plain_errors
from pruning.tracking.mlflow_run import FILES, TABLES
from pruning.tracking.store import DATABASE, MLflow

log = logging.getLogger(__name__)


def main() -> None:
    """The command `depth-pruning track`."""
    parser = argparse.ArgumentParser(
        prog="depth-pruning track",
        usage="%(prog)s [RESULTS] [tracker.uri=URI]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    words = parser.parse_args().words
    folders = [word for word in words if names_folder(word)]
    if len(folders) > 1:
        raise InputError(f"{len(folders)} folders are given ({', '.join(folders)}): give one.")
    uri = asked_store([word for word in words if not names_folder(word)])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Path(folders[0] if folders else "results").expanduser().resolve()
    if not any(results.glob("*/config.yaml")) and not (results / TABLES / FILES[0]).exists():
        raise InputError(f"no cell found in {results}: give the folder that `paths.results` named.")
    record_all(results, uri)


def asked_store(words: Sequence[str]) -> str | None:
    """The store that the words of a command name with `tracker.uri=URI`; None if there are no words.

    Raises InputError for another word, or if the address cannot be that of a store.
    """
    if not words:
        return None
    name, _, uri = words[0].partition("=")
    if len(words) > 1 or name != "tracker.uri":
        raise InputError(f"{' '.join(words)}: this command takes one setting, tracker.uri=URI.")
    check_uri(uri)
    return uri


def record_all(results: Path, uri: str | None = None) -> int:
    """Record the table of published masks and each cell that has a result; returns the number of these cells.

    `uri` is the store that the command names. Raises PruningError, after all other cells are recorded, if a store or
    a cell caused an error.
    """
    grouped, errors = trackers(results, uri)
    if (results / TABLES / FILES[0]).exists():
        (grouped[0][0] if grouped else MLflow(uri)).table(results, results / TABLES)
        log.info("the table of published masks is recorded")
    for tracker, folders in grouped:
        try:
            tracker.record(results, folders, again=True)
            log.info(
                "%d cells recorded in %s", len(folders), getattr(tracker, "uri", None) or results / DATABASE
            )
        except PruningError as error:
            errors.append(error)
    if errors:
        raise merged_error(errors)
    return sum(len(folders) for _, folders in grouped)


Grouped: TypeAlias = list[tuple[Tracker, list[Path]]]


def trackers(results: Path, uri: str | None = None) -> tuple[Grouped, list[PruningError]]:
    """Each tracker for cells of a results folder, with the folders of those cells that have a result.

    `uri` is the store that the command names. Cells whose configuration cannot be read are left out; the second list
    has an error for each.
    """
    grouped: dict[Tracker, list[Path]] = {}
    errors: list[PruningError] = []
    elsewhere: dict[str, None] = {}
    for path in sorted(results.glob("*/config.yaml")):
        try:
            settings = _settings(path)
            tracker = _tracker(settings, uri)
        except PruningError as error:
            errors.append(PruningError(f"{path.parent.name} is not recorded: {error}"))
            continue
        done = (path.parent / NAME).exists()
        grouped.setdefault(tracker, []).extend([path.parent] if done else [])
        if uri is None:
            elsewhere |= dict.fromkeys(outward({"tracker": settings}).values())
    for store in elsewhere:
        log.warning(
            "cells name the store %s, which is used only if the command names it too: tracker.uri=%s",
            store,
            store,
        )
    return list(grouped.items()), errors


def _tracker(settings: Mapping[str, Any], uri: str | None) -> Tracker:
    """The tracker in a cell's recorded settings, if it writes where this command may write; else the command's own.

    That one writes to `uri`, or to the SQLite file in the results folder.
    """
    plain = without_option(settings)
    if not isinstance(plain.get("experiment", ""), str):
        raise DamagedError(f"tracker.experiment={plain['experiment']} is not text.")
    usable = plain.get("uri") == uri or (uri is None and not outward({"tracker": plain}))
    if plain.get(CLASS) not in ("MLflow", "Server") or not usable:
        return MLflow(uri)
    tracker: Tracker = build("tracker", plain)
    return tracker


class _Plain(yaml.SafeLoader):
    """Reads YAML without aliases, which let a short file stand for a text without end; no configuration has them."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node. Raises YAMLError for an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def _settings(path: Path) -> Mapping[str, Any]:
    """The tracker's settings in a cell's configuration. Raises DamagedError if the file cannot be read."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DamagedError(
            f"{path} is damaged ({first_line(error)}): move the cell's folder away."
        ) from error
    settings = config.get("tracker", {}) if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise DamagedError(f"{path} is damaged (no configuration of a cell): move the cell's folder away.")
    return settings


# The command `depth-pruning ui`


def browse() -> None:
    """Print the address of the page that shows the runs, then start the server of MLflow until Ctrl-C.

    No database is created: `make track` does that.
    """
    description = "Browse the runs of a results folder in MLflow; `make ui` does the same."
    parser = argparse.ArgumentParser(prog="depth-pruning ui", description=description)
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


def page(results: Path, port: int) -> str:
    """The address of the page with the runs of a results folder.

    MLflow 3.17 opens an experiment in its view for GenAI, unless the address asks for model training. Raises
    PruningError if there is no database, or if it cannot be used.
    """
    database = results / DATABASE
    if database.is_symlink():
        raise PruningError(f"{database} is a symbolic link: give the folder that it leads to.")
    with plain_errors(database):
        experiment = connect(f"sqlite:///{database}").get_experiment_by_name(MLflow.experiment)
    if experiment is None:
        raise PruningError(f"{database} has no runs: `depth-pruning track {results}` records them.")
    number = experiment.experiment_id
    return f"http://localhost:{port}/#/experiments/{number}/runs?workflowType=machine_learning"
