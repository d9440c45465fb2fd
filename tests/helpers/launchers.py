"""Tasks and records without models, and commands of SLURM that answer what a test wants them to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage
from pruning.launcher.submission import QueuedCell, Submission
from pruning.models.handle import Resources


def task(key: str, group: str = "a", evaluations: int = 10, resources: Resources | None = None) -> QueuedCell:
    config = {"eval": {"items": 2}, "tracker": {"class": "NoTracker"}}
    return QueuedCell(key, config, {"algo": "greedy"}, resources or Resources(), evaluations, group)


def submission(results: Path, *tasks: QueuedCell, where: str = "/somewhere", **jobs: str) -> Submission:
    """A record, complete if it names jobs."""
    record = Submission.begin(results, tasks, results / "code" / "c0de", where)
    record.jobs, record.complete = dict(jobs), bool(jobs)
    record.save()
    return record


def result(results: Path, key: str, **changes: Any) -> None:
    """A cell's result as far as launchers read it."""
    done = {"cell": key, "status": "done", "config": {"eval": {"items": 2}}, "error": None, "environment": {}}
    storage.write_json(results / key / "result.json", done | {"evaluation": {}} | changes)


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, scripts: Mapping[str, str]) -> Path:
    """Put shell scripts on the PATH; each call's arguments are added to the file that is returned."""
    calls = folder / "calls"
    calls.touch()
    (folder / "bin").mkdir(exist_ok=True)
    for name, body in scripts.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n{body}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return calls
