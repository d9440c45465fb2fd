"""Record every cell of a results folder in MLflow again, from its files.

depth-pruning track [RESULTS] [tracker.uri=URI]

RESULTS is the folder of the cells; the default is `results`. Cells are recorded in the SQLite file in RESULTS or, if
tracker.uri is given, in that store.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pruning.config.words import results_of
from pruning.core.errors import InputError
from pruning.core.records import NAME
from pruning.tracking.store import DATABASE, HELD, MLflow

log = logging.getLogger(__name__)


def main() -> None:
    """The command `depth-pruning track`. Raises InputError if an argument is invalid or there is no cell."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results, given = results_of(sys.argv[1:], "tracker.uri")
    record_all(results, given.get("tracker.uri"))


def record_all(results: Path, uri: str | None = None) -> int:
    """Record all cells of a folder in `uri` (None: the folder's own store), and return their number."""
    tracker, folders = MLflow(uri), sorted(path.parent for path in results.glob(f"*/{NAME}"))
    if not folders:
        raise InputError(f"no cell found in {results}: give the folder that `paths.results` named.")
    (results / HELD).unlink(missing_ok=True)
    tracker.record(results, folders)
    log.info("%d cells recorded in %s", len(folders), uri or results / DATABASE)
    return len(folders)
