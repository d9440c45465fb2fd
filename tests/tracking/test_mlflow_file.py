"""Two commands that record the same cells in one SQLite file."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from pruning.tracking import mlflow_run
from pruning.tracking.client import connect
from pruning.tracking.store import DATABASE, MLflow
from tests.tracking.test_recorded_before import KEYS, write


def test_two_commands_that_record_the_same_cells_keep_each_others_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key in KEYS:
        write(tmp_path, key)
    given = (tmp_path, [tmp_path / key for key in KEYS])
    original, overtaken, second = mlflow_run._artifacts, Event(), Thread(target=MLflow().record, args=given)

    def artifacts(*written: Any) -> None:
        if second.ident is None:
            second.start()  # another command begins while the first run is unfinished
            overtaken.wait(1)
        else:
            overtaken.set()
        original(*written)

    monkeypatch.setattr(mlflow_run, "_artifacts", artifacts)
    with caplog.at_level(logging.INFO):
        MLflow().record(*given)
    second.join()
    recorded = [run.data.tags for run in connect(f"sqlite:///{tmp_path / DATABASE}").search_runs(["1"])]
    assert Counter(tags["cell"] for tags in recorded) == Counter(KEYS)
    assert all(mlflow_run.VERSION in tags for tags in recorded)
    assert "another command writes to mlflow.db: waiting for it" in caplog.text
