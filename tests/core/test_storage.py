"""Files are there whole or not at all, whatever fails: texts, journals, directories; and digests are of contents."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError
from pruning.core.storage import (
    MEBIBYTE,
    append_line,
    check_writable,
    mend,
    read_json,
    read_lines,
    replace,
    staged,
    sweep,
    temporary_file,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole files.


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_all_that_is_written_has_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "result.json", "x")
        append_line(tmp_path / "trace.jsonl", {})
        with staged(tmp_path / "out") as partial:
            replace(partial, tmp_path / "out")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"out": folder, "result.json": file, "trace.jsonl": file}


@pytest.mark.parametrize("step", ["fsync", "interrupt", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt if step == "interrupt" else OSError("disk full")

    path = tmp_path / "new" / "folder" / ("ü" * 120)  # the longest name of a file
    write_text(path, "older")
    write_text(path, "größer\n")
    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "replace") if step == "replace" else (os, "fsync")), fail)
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_text(path, "new")
    assert path.read_bytes() == "größer\n".encode()
    assert names(path.parent) == [path.name]


def test_json_comes_back_and_what_is_not_json_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    data = {"loss": 0.1 + 0.2, "name": "Größe", "dropped": [1, 2], "nothing": None}
    write_json(tmp_path / "a.json", data)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError):
            write_json(tmp_path / "a.json", {"loss": bad})
        with pytest.raises(ValueError):
            append_line(tmp_path / "trace.jsonl", {"loss": bad})
    assert read_json(tmp_path / "a.json") == data
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("text", ["", "{'a': 1}", "[" * 100_000, "9" * 5_000, "\ud800"])
def test_a_damaged_json_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DamagedError, match=str(path)):
        read_json(path)


# Journals.


@pytest.mark.parametrize("cut", [1, 5, 8])
def test_lines_have_the_offsets_after_them_and_a_torn_one_is_left_out_and_mended(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "trace.jsonl"
    mend(path)
    assert names(tmp_path) == []
    append_line(path, {"n": 0})
    whole = path.read_bytes()
    append_line(path, {"n": 1})
    first, second = read_lines(path)
    assert (first, second[0]) == ((9, whole), path.stat().st_size)
    assert list(read_lines(path, start=9)) == [second]
    mend(path)
    assert path.stat().st_size == 18, "nothing but a torn line is cut"
    os.truncate(path, 18 - cut)
    assert list(read_lines(path)) == [first]
    mend(path)
    append_line(path, {"n": 2})
    assert [json.loads(line)["n"] for _, line in read_lines(path)] == [0, 2]


# Folders.


@pytest.mark.parametrize("below", ["", "deeper/results"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    check_writable(tmp_path / "a" / "results", needed=1)
    assert names(tmp_path / "a" / "results") == []
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    with pytest.raises(InputError, match=rf"{folder} .*paths\.results=DIR"):
        check_writable(folder)


def test_a_full_disk_is_reported_in_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * MEBIBYTE))
    check_writable(tmp_path, needed=5 * MEBIBYTE)
    with pytest.raises(InputError, match=r"5 MiB .* 64 MiB .*paths\.results=DIR"):
        check_writable(tmp_path)


def test_a_staged_directory_is_whole_and_replaces_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    for text in ("first", "second"):
        with staged(target) as partial:
            (partial / "weights").write_text(text)
            assert target.exists() == (text == "second")
            replace(partial, target)
        assert (target / "weights").read_text() == text
    honest, calls = Path.rename, []

    def second_fails(path: Path, to: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk")
        return honest(path, to)

    with staged(target) as partial:
        (partial / "weights").write_text("third")
        monkeypatch.setattr(Path, "rename", second_fails)
        with pytest.raises(OSError, match="disk"):
            replace(partial, target)
    assert (target / "weights").read_text() == "second", "the old directory was not put back"
    assert names(tmp_path) == ["model"]


def test_what_a_kill_leaves_is_removed_once_nobody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (child := os.fork()) == 0:
        try:
            with staged(tmp_path / "model") as partial, temporary_file(tmp_path / "file.json"):
                (partial / "weights").write_text("new")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    users = [".model.part-xyz", "model.part-00000000", ".part"]
    for name in users:
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert len(names(tmp_path)) == 2 + len(users)
    monkeypatch.setattr(storage, "DAY", -1)
    with staged(tmp_path / "other"):
        assert len(names(tmp_path)) == 1 + len(users)
    assert names(tmp_path) == sorted(users)


# Digests: a large file is read once, and again after each change.

SIZE = storage.SMALL + 1


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read; the cache of digests is empty."""
    read: list[Path] = []
    original = storage._read

    def noted(path: Path, advance: Any) -> str:
        read.append(path)
        return original(path, advance)

    monkeypatch.setattr(storage, "_read", noted)
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(tmp_path / "cache"))
    return read


@pytest.mark.parametrize("change", ["none", "content and time", "other file", "size"])
def test_a_file_is_read_again_only_after_a_change(
    tmp_path: Path, reads: list[Path], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    path = tmp_path / "text"
    path.write_bytes(b"a" * SIZE)
    os.utime(path, ns=(1, 1))
    storage.file_sha256(path)
    if change == "other file":
        (tmp_path / "new").write_bytes(b"b" * SIZE)
        (tmp_path / "new").replace(path)
    elif change != "none":
        path.write_bytes(b"b" * (SIZE + (change == "size")))
    if change == "content and time":
        os.utime(path, ns=(1, 1))
    assert storage.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(reads) == (1 if change == "none" else 2)


def test_a_file_that_has_just_been_written_is_read_each_time(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "text"
    for letter in (b"a", b"b", b"c"):
        path.write_bytes(letter * SIZE)
        assert storage.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(reads) == 3
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OSError, match=path.name):
            storage.file_sha256(path)


def test_a_damaged_digest_is_not_used(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "WRITTEN_BACK", -1)
    path = tmp_path / "text"
    path.write_bytes(b"a" * SIZE)
    first = storage.file_sha256(path)
    (entry,) = (tmp_path / "cache" / "digests").glob("*.json")
    kept = json.loads(entry.read_text())
    wrong = [json.dumps(kept | change) for change in ({"sha256": "0" * 64}, {"state": [1]})]
    for number, damage in enumerate(["", "[]", "{}", *wrong], start=2):
        entry.write_text(damage)
        assert storage.file_sha256(path) == first
        assert len(reads) == number, f"a damaged entry was used: {damage}"
        assert json.loads(entry.read_text()) == kept
    monkeypatch.setenv("DEPTH_PRUNING_CACHE", str(path))
    assert storage.file_sha256(path) == first, "a cache that cannot be written does no harm"
