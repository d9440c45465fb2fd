"""Digests of files: a large file is read once, and again after each change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pruning.core import storage

SIZE = storage.SMALL + 1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    read: list[str] = []
    original: Any = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda stream, name: (read.append(stream.name), original(stream, name))[1]
    )
    monkeypatch.setattr(storage, "_memory", {})
    return read


def plain(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_has_long_been_unchanged_is_read_once(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    path = tmp_path / "text"
    path.write_bytes(b"a" * SIZE)
    assert [storage.file_sha256(path) for _ in range(3)] == [plain(path)] * 3
    assert len(reads) == 1


@pytest.mark.parametrize("change", ["content", "content and time", "other file", "size"])
def test_a_changed_file_is_read_again(
    tmp_path: Path, reads: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    path = tmp_path / "text"
    path.write_bytes(b"a" * SIZE)
    os.utime(path, ns=(1, 1))
    storage.file_sha256(path)
    if change == "other file":
        (tmp_path / "new").write_bytes(b"b" * SIZE)
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"b" * (SIZE + (change == "size")))
    if change == "content and time":
        os.utime(path, ns=(1, 1))
    assert storage.file_sha256(path) == plain(path)
    assert len(reads) == 2


def test_a_file_that_has_just_been_written_is_read_each_time(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "text"
    for letter in (b"a", b"b", b"c"):
        path.write_bytes(letter * SIZE)
        assert storage.file_sha256(path) == plain(path), "the time stamps can be those of the earlier content"
    assert len(reads) == 3


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OSError, match=path.name):
            storage.file_sha256(path)
