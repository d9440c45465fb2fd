"""Tasks and records without models, and replacements for SLURM's commands, whose answers a test chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage
from pruning.launcher.submission import QueuedCell, Submission
from pruning.models.handle import Resources
from tests.helpers.results import a_result


def task(key: str, evaluations: int = 10, resources: Resources | None = None) -> QueuedCell:
    config = {"eval": {"items": 2}, "tracker": {"class": "NoTracker"}}
    return QueuedCell(key, config, resources or Resources(), evaluations)


def submission(results: Path, *tasks: QueuedCell, where: str = "/somewhere", **jobs: str) -> Submission:
    """Write the record of a submission. If `jobs` are given, it is complete."""
    record = Submission.begin(results, tasks, results / "code" / "c0de", where)
    record.jobs, record.complete = dict(jobs), bool(jobs)
    record.save()
    return record


def result(results: Path, key: str, **changes: Any) -> None:
    """Write a cell's result with the parts that launchers read."""
    storage.write_json(
        results / key / "result.json", a_result(cell=key, config={"eval": {"items": 2}}) | changes
    )


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, scripts: Mapping[str, str]) -> Path:
    """Put shell scripts on the PATH. Returns the file to which each call appends its name and arguments."""
    calls = folder / "calls"
    calls.touch()
    (folder / "bin").mkdir(exist_ok=True)
    for name, body in scripts.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n{body}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return calls
