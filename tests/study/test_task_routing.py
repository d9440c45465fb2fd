"""`experiment=tasks` end to end on a tiny model: cells, cross table, router, files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.core.atomic_files import read_json
from pruning.core.mask import Mask
from pruning.routing import files
from tests.conftest import Command, Ended
from tests.helpers.task_files import items_of, task_folder

SMALL = ("experiment=tasks", "k=2", "calibration.samples=8", "calibration.heldout=12", "tasks.embedded=false")


def record_of(ended: Ended) -> tuple[Path, dict[str, Any]]:
    (path,) = (ended.results / files.FOLDER).glob(f"*/{files.RECORD}")
    return path.parent, read_json(path)


def test_a_folder_of_tasks_gives_sets_a_cross_table_and_a_router(launch: Command, tmp_path: Path) -> None:
    ended = launch(*SMALL, f"tasks.folder={task_folder(tmp_path / 'tasks')}", calibrated=False)
    assert ended.status == 0, ended.err
    folder, record = record_of(ended)
    print(ended.out)
    assert 0
