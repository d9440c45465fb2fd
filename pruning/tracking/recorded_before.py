"""What an SQLite store of MLflow already holds, read without MLflow, whose import alone takes two seconds.

Only the tables of experiments, runs and tags are read. If they cannot be read, nothing counts as recorded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pruning.core import study_tags
from pruning.core.result import NAME
from pruning.tracking.mlflow_run import VERSION, studies_of, version_of
from pruning.tracking.runs_view import KIND, NOTED, VIEWED
from pruning.tracking.store_uri import damage

EXPERIMENT = (
    "select experiment_id, artifact_location from experiments where name = ? and lifecycle_stage = 'active'"
)
TAGS = "select key, value from experiment_tags where experiment_id = ?"
VERSIONS = """
select cell.value, version.value from runs
join tags as cell on cell.run_uuid = runs.run_uuid and cell.key = 'cell'
join tags as version on version.run_uuid = runs.run_uuid and version.key = ?
where runs.experiment_id = ? and runs.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class Before:
    """The tags of the experiment, and (cell, version) of each recorded run."""

    tags: dict[str, str]
    runs: frozenset[tuple[str, str]]


def recorded_before(database: Path, experiment: str, location: str) -> Before | None:
    """What the experiment of a store holds.

    None if there is no such store or experiment, if its artifacts are elsewhere, or if the store is damaged.
    """
    if not database.exists() or damage(database) is not None:
        return None
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            found = connection.execute(EXPERIMENT, (experiment,)).fetchone()
            if found is None or found[1] != location:
                return None
            tags = dict(connection.execute(TAGS, (found[0],)).fetchall())
            return Before(tags, frozenset(connection.execute(VERSIONS, (VERSION, found[0])).fetchall()))
    except sqlite3.Error:
        return None


def nothing_new(before: Before, results: Path, folders: Sequence[Path]) -> bool:
    """Whether recording these cells would change nothing: every run, every study and the view are there."""
    if before.tags.get(KIND[0]) != KIND[1] or not {VIEWED, NOTED} <= before.tags.keys():
        return False
    studies = studies_of(folders)
    recorded = all(
        not (folder / NAME).exists() or (folder.name, version_of(folder, studies[folder])) in before.runs
        for folder in folders
    )
    return recorded and study_tags.wanted_tags(before.tags, results).items() <= before.tags.items()
