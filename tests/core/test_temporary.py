"""What a killed process leaves is removed; what a living process or another machine uses is kept."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pruning.core import storage
from pruning.core.storage import replace, staged, sweep, temporary_file, temporary_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(folder: Path, step: str = "staged") -> None:
    """Let a child process be killed in the middle of a step."""
    if (child := os.fork()) == 0:
        try:
            with staged(folder / "model") as partial, temporary_file(folder / "file.json"):
                (partial / "weights").write_text("new")
                if step == "swap":
                    replace(partial, folder / "model", lambda _: bool(os.kill(os.getpid(), signal.SIGKILL)))
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_kill_leaves_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    killed(tmp_path)
    assert len(names(tmp_path)) == 3
    storage.write_text(tmp_path / "other.json", "x")
    assert names(tmp_path) == ["other.json"]


def test_what_a_living_process_uses_is_kept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "model") as folder, temporary_file(tmp_path / "a") as (_, path):
        sweep(tmp_path)
        assert folder.is_dir()
        assert path.is_file()
    assert names(tmp_path) == []


def test_a_kill_between_two_renames_loses_no_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    killed(tmp_path, "swap")
    assert not (tmp_path / "model").exists()
    sweep(tmp_path)
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_another_machines_files_are_kept_for_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path)
    monkeypatch.setattr(storage, "_machine", lambda: "0" * 8)
    sweep(tmp_path)
    assert len(names(tmp_path)) == 3
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".model.settings", ".model.part-xyz", "model.part-00000000-00000000", ".lock"]
)
def test_a_users_hidden_files_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_long_names_have_temporary_names_too(tmp_path: Path) -> None:
    target = tmp_path / ("ü" * 120)
    storage.write_text(target, "x")
    assert names(tmp_path) == [target.name]


def test_a_directory_that_changes_at_the_last_moment_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with staged(tmp_path / "model") as partial, pytest.raises(OSError, match="just changed"):
        replace(partial, tmp_path / "model", lambda _: False)
    assert names(tmp_path) == ["model"]
