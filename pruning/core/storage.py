"""Read and write the files of a results folder: whole files atomically, journals line by line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pruning.core.errors import DamagedError, InputError, cache_folder, os_error
from pruning.core.units import MEBIBYTE

SEAL = "seal"  # the entry of a JSON object with the digest of the other entries


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees either the old file or the new one, even after a crash."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically, as `write_text` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), temporary_file(path) as (stream, temporary):
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        temporary.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically and with a seal, so that `read_json` detects values changed by hand."""
    write_json(path, sealed(data))


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal: a prefix of the SHA-256 of its other entries."""
    own = {name: value for name, value in data.items() if name != SEAL}
    return {**data, SEAL: text_sha256(json.dumps(own, sort_keys=True))[:16]}


def unsealed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's JSON object without its seal. Raises DamagedError if the seal does not match the object."""
    if SEAL in data and data != sealed(data):
        raise DamagedError(
            f"{path} was changed after it was written: its contents do not have the digest in its entry '{SEAL}'. "
            "Restore it, or move it away and run again."
        )
    return {name: value for name, value in data.items() if name != SEAL}


def read_json(path: Path) -> Any:
    """The content of a JSON file, without its seal. Raises DamagedError if it is not JSON or the seal is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # such as a number of 5,000 digits, or too many brackets
        raise DamagedError(f"{path} is damaged ({error}): move it away and run again.") from error
    return unsealed(data, path) if isinstance(data, dict) else data


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within this context, add the file's name to each OSError, because an error in writing does not name the file.

    If a library raises an exception of another type whose text has an OSError's number, an OSError is raised instead.
    """
    try:
        yield
    except Exception as error:
        if (found := os_error(error)) is None:
            raise
        found.filename, found.filename2 = str(path), None
        if found is error:
            raise
        raise found from error


# Journals: files to which lines are appended.


def append_line(path: Path, data: Any) -> None:
    """Append one JSON line in a single write, so that a killed process leaves at most the last line incomplete.

    Raises OSError, which names the file, if the line could not be written as a whole.
    """
    line = (json.dumps(data, allow_nan=False) + "\n").encode()
    with naming(path), path.open("ab", buffering=0) as stream:
        if os.write(stream.fileno(), line) < len(line):
            raise OSError(errno.ENOSPC, "the disk is full, or a quota is used up", str(path))


def mend(path: Path) -> None:
    """Remove an incomplete last line from a journal; otherwise the next append would continue it."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with naming(path):
            os.truncate(path, end)


def read_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset of the end, line) for each line from byte `start` on; skip an incomplete last line."""
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, line


def check_links(cell: Path) -> None:
    """Raise InputError if a cell's folder, or anything in it, is a symbolic link.

    A results folder can come from somebody else, and a write through a link could change any of the user's files.
    """
    inside = (Path(place) / name for place, folders, files in os.walk(cell) for name in (*folders, *files))
    for path in (cell, *inside):
        if path.is_symlink():
            raise InputError(
                f"{path} is a symbolic link to {path.readlink()}: put the file or folder itself there."
            )


def check_writable(folder: Path, needed: int = 64 * MEBIBYTE) -> None:
    """Raise InputError if `folder` cannot be created or written, or if fewer than `needed` bytes are free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"the results folder {folder} cannot be written ({error.strerror}): "
            "choose another with paths.results=DIR."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the disk of {folder} has {free // MEBIBYTE} MiB free and at least {needed // MEBIBYTE} MiB are "
            "needed: free some space or choose another folder with paths.results=DIR."
        )


# Digests of files, texts and JSON data.

# The digest of a large file is kept in the user's cache folder, in a file of its own, until the file changes.

SMALL = MEBIBYTE  # smaller files are read each time
CHUNK = 4 * MEBIBYTE
# If a file has changed within this time, its digest is not kept, because a later change may not have a new
# mtime yet. A write to a mapped file changes the mtime only when the system writes the page back, after 30 s.
WRITTEN_BACK = 35_000_000_000  # nanoseconds


def file_sha256(path: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """The SHA-256 of a file, in hex; after each read, `advance` is called with the number of bytes read.

    The digest of a large file is stored for later calls. Raises OSError if the file cannot be read.
    """
    state = file_state(path)
    if state[0] < SMALL or time.time_ns() - state[3] <= WRITTEN_BACK:
        return _read(path, advance)
    if (kept := kept_sha256(path)) is not None:
        return kept
    sha256 = _read(path, advance)
    if file_state(path) == state:
        with suppress(OSError):  # if the cache cannot be written, the file is read again next time
            write_record(_entry(path), {"path": str(path), "state": state, "sha256": sha256})
    return sha256


def kept_sha256(path: Path) -> str | None:
    """The stored digest of a file; None if it is not stored, is damaged, or the file has changed since."""
    try:
        record = read_json(_entry(path))
        return str(record["sha256"]) if record["state"] == file_state(path) else None
    except (OSError, DamagedError, LookupError, TypeError):
        return None


def _read(path: Path, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with naming(path), path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _entry(path: Path) -> Path:
    return cache_folder() / "digests" / f"{text_sha256(str(path.resolve()))[:32]}.json"


def file_state(path: Path) -> list[int]:
    """Size, inode, mtime, ctime, device. After a change, a program can restore a file's mtime, but not its ctime."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev]


def text_sha256(text: str) -> str:
    """The SHA-256 of a string in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: Any) -> str:
    """The first eight hex digits of the SHA-256 of JSON data; the order of keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))[:8]


# Build a target in a hidden folder beside it, then rename it, so that others see it complete or not at all.
#
# A later writer removes hidden folders of killed processes if nothing in them has changed for a day.

PART = ".part-"  # prefix of the hidden folder's name
DAY = 24 * 3600


@contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    """Yield a path in a new hidden folder next to `target`; the folder is removed when the context ends."""
    with tempfile.TemporaryDirectory(prefix=PART, dir=target.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / target.name


@contextmanager
def temporary_file(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a new hidden binary file, and its path. It is removed when the context ends unless it was renamed."""
    with _hidden(target) as path, path.open("xb") as stream:
        yield stream, path


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a hidden directory next to `target`; it is removed when the context ends unless it was renamed.

    Before, old hidden folders of killed processes are removed. Raises OSError if the directory cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    with _hidden(target) as partial:
        partial.mkdir()
        yield partial


def replace(partial: Path, target: Path) -> None:
    """Rename a complete directory from `staged` to `target`. If that fails, a `target` that existed before stays."""
    with _hidden(target) as aside:
        if target.exists():
            target.rename(aside)
        try:
            partial.rename(target)
        except OSError:
            if aside.exists():
                aside.rename(target)
            raise


def sweep(folder: Path) -> None:
    """Remove the hidden folders in `folder` that have not changed for a day. Raises no OSError."""
    with suppress(OSError):
        for path in folder.glob(f"{PART}*/"):
            with suppress(OSError):
                changed = (part.lstat().st_mtime for part in (path, *path.rglob("*")))
                if time.time() - max(path.lstat().st_ctime, *changed) > DAY:
                    shutil.rmtree(path, ignore_errors=True)
