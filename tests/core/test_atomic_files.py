from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pruning.core.errors import DamagedError, InputError
from pruning.core.storage import (
    MEBIBYTE,
    append_line,
    appending,
    check_writable,
    mend,
    publish,
    read_json,
    read_lines,
    staged,
    touch,
    write_json,
    write_text,
)
from pruning.core.terminal import sentence


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_text_makes_folders_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "mask.json"
    write_text(path, "old")
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert names(path.parent) == ["mask.json"]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_all_that_is_written_has_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "result.json", "x")
        append_line(tmp_path / "trace.jsonl", {})
        touch(tmp_path / "cancelled")
        with appending(tmp_path / "launch.log") as log:
            log.write("x")
        with staged(tmp_path / "out") as partial:
            publish(partial, tmp_path / "out")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found.pop("out") == folder
    assert found == dict.fromkeys(("result.json", "trace.jsonl", "cancelled", "launch.log"), file)


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo"])
def test_nothing_is_written_through_a_link_or_a_pipe(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    if kind == "link":
        target.write_text("whole\ntorn")
    content = target.read_text() if target.exists() else None
    writers: list[Callable[[Path], object]] = [lambda path: append_line(path, {}), appending, touch]
    for write in [*writers, mend] if kind == "link" else writers:
        with pytest.raises(OSError, match=r"file") as error:
            write(path)
        assert "symbolic link" in sentence(error.value)
    assert (target.read_text() if target.exists() else None) == content
    write_text(path, "new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert (target.read_text() if target.exists() else None) == content


@pytest.mark.parametrize("step", ["fsync", "replace", "encode"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    path, text = tmp_path / "result.json", "new"
    path.write_text("old")
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        text = "\ud800"  # a lone surrogate has no UTF-8
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_text(path, text)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_even_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "result.json", "new")
    assert names(tmp_path) == []


def test_json_comes_back_and_ends_in_a_newline(tmp_path: Path) -> None:
    data = {"loss": 0.1 + 0.2, "name": "Größe", "dropped": [1, 2], "nothing": None}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json") == data
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_json_is_refused_before_the_file_is_touched(tmp_path: Path, bad: float) -> None:
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": bad})
    with pytest.raises(ValueError):
        append_line(tmp_path / "trace.jsonl", {"loss": bad})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"{'a': 1}"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged")
    assert "run again" in str(caught.value)


def test_appended_lines_are_read_with_the_offsets_after_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for number in range(3):
        append_line(path, {"n": number})
    read = list(read_lines(path))
    assert [json.loads(line)["n"] for _, line in read] == [0, 1, 2]
    assert read[-1][0] == path.stat().st_size
    assert list(read_lines(path, start=read[0][0])) == read[1:]
    assert list(read_lines(path, start=path.stat().st_size)) == []


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_torn_last_line_is_left_out_and_mended_at_every_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "trace.jsonl"
    append_line(path, {"n": 0})
    whole = path.read_bytes()
    append_line(path, {"n": 1})
    assert path.stat().st_size == 2 * len(whole) == 18
    os.truncate(path, path.stat().st_size - cut)
    assert [line for _, line in read_lines(path)] == [whole]
    mend(path)
    append_line(path, {"n": 2})
    assert [json.loads(line)["n"] for _, line in read_lines(path)] == [0, 2]


@pytest.mark.parametrize(("before", "after"), [(b"torn", b""), (b"", b""), (b"a\nb\n", b"a\nb\n")])
def test_mend_cuts_nothing_but_the_torn_line(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(before)
    mend(path)
    assert path.read_bytes() == after


def test_mend_makes_no_file(tmp_path: Path) -> None:
    mend(tmp_path / "trace.jsonl")
    assert names(tmp_path) == []


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "results", needed=1)
    assert names(tmp_path / "a" / "results") == []


@pytest.mark.parametrize("below", ["", "deeper/results"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / below
    with pytest.raises(InputError) as caught:
        check_writable(folder)
    assert f"{folder} cannot be written" in str(caught.value)
    assert "paths.results=DIR" in str(caught.value)


def test_a_full_disk_is_reported_in_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * MEBIBYTE))
    check_writable(tmp_path, needed=5 * MEBIBYTE)
    with pytest.raises(InputError, match=r"5 MiB free and at least 64 MiB .*paths\.results=DIR"):
        check_writable(tmp_path)
