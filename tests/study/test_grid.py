"""The list of cells that a study asks for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pruning.core import storage
from pruning.runs.cell import Cell
from pruning.study.grid import note_study


def cell(results: Path, key: str, study: str = "test") -> Cell:
    """A cell with the attributes that `note_study` uses."""
    return cast(Cell, SimpleNamespace(results=results, key=key, study=study))


def listed(results: Path, study: str = "test") -> list[str]:
    """The keys of a study's cells, read from its file."""
    return list(storage.read_json(results / "studies" / f"{study}.json")["cells"])


def test_a_study_keeps_what_it_asked_for_and_adds_what_is_new(tmp_path: Path) -> None:
    note_study([cell(tmp_path, "a"), cell(tmp_path, "b"), cell(tmp_path, "c", "other")])
    note_study([cell(tmp_path, "d"), cell(tmp_path, "a")])
    assert listed(tmp_path) == ["a", "b", "d"]
    assert listed(tmp_path, "other") == ["c"]


def test_two_commands_of_one_study_lose_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = storage.read_json

    def slow(path: Path) -> Any:
        data = read(path)
        time.sleep(0.02)  # without a lock, another thread reads data that are about to be replaced
        return data

    note_study([cell(tmp_path, "first")])
    monkeypatch.setattr(storage, "read_json", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: note_study([cell(tmp_path, f"cell-{n}")]), range(12)))
    assert sorted(listed(tmp_path)) == sorted(["first", *(f"cell-{n}" for n in range(12))])


def test_what_is_noted_already_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_study([cell(tmp_path, "a"), cell(tmp_path, "b")])
    monkeypatch.setattr("filelock.FileLock", None)  # another user's folder may be read-only
    note_study([cell(tmp_path, "b")])
    assert listed(tmp_path) == ["a", "b"]
