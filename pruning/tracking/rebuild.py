"""Record every cell of a results folder in MLflow again, from its files.

depth-pruning track [RESULTS] [tracker.uri=URI]

Cells go to the SQLite file in RESULTS, or to the store URI. A recorded tracker.uri is used only if the command or
MLFLOW_TRACKING_URI names it too, because RESULTS can come from somebody else. For tracker=server, runs of dead jobs
are closed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pruning.config.app import build
from pruning.config.words import names_folder
from pruning.core.errors import DamagedError, InputError, PruningError, merged_error
from pruning.core.records import CLASS, NAME, outward, read_result, without_option
from pruning.runs.cell import Tracker
from pruning.tracking.client import check_uri
from pruning.tracking.store import DATABASE, MLflow

log = logging.getLogger(__name__)


def main() -> None:
    """The command `depth-pruning track`."""
    words = sys.argv[1:]
    folders = [word for word in words if names_folder(word)]
    if len(folders) > 1:
        raise InputError(f"{len(folders)} folders are given ({', '.join(folders)}): give one.")
    uri = asked_store([word for word in words if not names_folder(word)])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = Path(folders[0] if folders else "results").expanduser().resolve()
    if not any(results.glob(f"*/{NAME}")):
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
    """Record each cell that has a result; returns their number.

    `uri` is the store that the command names. Raises PruningError, after all other cells are recorded, if a store or
    a cell caused an error.
    """
    grouped, errors = trackers(results, uri)
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
    """Each tracker for cells of a results folder that have a result, with the folders of its cells.

    `uri` is the store that the command names. Cells whose result cannot be read are left out; the second list has an
    error for each.
    """
    grouped: dict[Tracker, list[Path]] = {}
    errors: list[PruningError] = []
    elsewhere: dict[str, None] = {}
    for folder in sorted(path.parent for path in results.glob(f"*/{NAME}")):
        try:
            settings = _settings(folder)
            tracker = _tracker(settings, uri)
        except PruningError as error:
            errors.append(PruningError(f"{folder.name} is not recorded: {error}"))
            continue
        grouped.setdefault(tracker, []).append(folder)
        if uri is None:
            elsewhere |= dict.fromkeys(outward({"tracker": settings}).values())
    for store in elsewhere:
        log.warning(
            "cells name the store %s, which is used only if the command names it too: tracker.uri=%s",
            store,
            store,
        )
    return list(grouped.items()), errors


def _settings(folder: Path) -> Mapping[str, Any]:
    """The tracker's settings in a cell's result. Raises DamagedError if they cannot be read."""
    settings = (read_result(folder) or {"config": {}})["config"].get("tracker", {})
    if not isinstance(settings, Mapping):
        raise DamagedError(f"{folder / NAME} is damaged (tracker={settings!r}): move the cell's folder away.")
    return settings


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
