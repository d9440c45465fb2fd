"""The routing records of a study: sets for tasks, all tasks under all sets, and the router's numbers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import DamagedError

from .side_files import ROUTING


def read_routing(results: Path, cells: set[str]) -> list[dict[str, Any]]:
    """The records whose cells are all among `cells`, in the order of their folders; without damaged ones."""
    records = []
    for path in sorted(results.glob(ROUTING)):
        with suppress(DamagedError):  # the command names the file at its end (`side_files`)
            records.append(atomic_files.read_json(path))
    return [record for record in records if {*record["cells"].values()} <= cells]
