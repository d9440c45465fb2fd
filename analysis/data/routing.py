"""The routing records of a study: sets for tasks, all tasks under all sets, and the router's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.core import atomic_files

FILES = "routing/*/routing.json"


def read_routing(results: Path, cells: set[str]) -> list[dict[str, Any]]:
    """The records whose cells are all among `cells`, in the order of their folders.

    Raises DamagedError if a record cannot be read.
    """
    records = (atomic_files.read_json(path) for path in sorted(results.glob(FILES)))
    return [record for record in records if {*record["cells"].values()} <= cells]
