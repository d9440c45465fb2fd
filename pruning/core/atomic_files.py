"""Read and write the files of a results folder: whole files atomically, journals line by line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from pruning.core.errors import DamagedError, InputError, os_error
from pruning.core.temporary import sweep, temporary_file
from pruning.core.units import MEBIBYTE

SEAL = "seal"  # the entry of a JSON object that holds the digest of the others


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees either the old file or the new one, even after a crash."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically, as `write_text` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        _sweep_once(path.parent.absolute())
        with temporary_file(path) as (stream, temporary):
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)


@lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    """Remove what killed processes left in a folder, when this process first writes there."""
    sweep(folder)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically with a seal, so that `read_json` finds a value that was changed by hand."""
    write_json(path, sealed(data))


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal: the beginning of the SHA-256 of its other entries."""
    return {**data, SEAL: _seal(data)}


def _seal(data: Mapping[str, Any]) -> str:
    text = json.dumps({name: value for name, value in data.items() if name != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_json(path: Path) -> Any:
    """Read a JSON file. An object that has a seal is returned without it.

    Raises DamagedError, which names the file, if the content is not JSON or does not have the digest of its seal.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:  # such as a number of 5,000 digits, or too many brackets
        raise DamagedError(f"{path} is damaged ({error}): move it away and run again.") from error
    return unsealed(data, path) if isinstance(data, dict) else data


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some entries. Raises ValueError if two have one name: the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def unsealed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A JSON object of a file without its seal. Raises DamagedError if it has a seal of other contents."""
    if SEAL not in data:
        return data
    if data[SEAL] != _seal(data):
        raise DamagedError(
            f"{path} was changed after it was written: its contents do not have the digest in its entry '{SEAL}'. "
            "Restore it, or move it away and run again."
        )
    return {name: value for name, value in data.items() if name != SEAL}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of the file into each OSError that is raised within: errors of a write itself name no file.

    If a library raises an exception that only names an error of the operating system, raises that error instead.
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


def append_line(path: Path, data: Any) -> None:
    """Append one JSON line in a single write, so that a kill can tear at most the last line.

    Raises OSError, which names the file, if the line could not be written as a whole.
    """
    line = (json.dumps(data, allow_nan=False) + "\n").encode()
    with naming(path):
        _append(path, line)


def opened(path: Path, flags: int) -> int:
    """A descriptor of a file that is written in place; a new file gets the permissions that the umask leaves.

    Raises OSError if it is a symbolic link or no ordinary file: in a copied folder, a link could lead the writer to
    any file of this machine. Files that are written as a whole replace a link.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return descriptor


def appending(path: Path) -> IO[str]:
    """A text stream that appends to a file. Raises OSError as `opened` does."""
    return os.fdopen(opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")


def touch(path: Path) -> None:
    """Create an empty file unless the file exists. Raises OSError as `opened` does."""
    os.close(opened(path, os.O_WRONLY | os.O_CREAT))


def _append(path: Path, line: bytes) -> None:
    descriptor = opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "the disk is full, or a quota is used up", str(path))
    finally:
        os.close(descriptor)


def mend(path: Path) -> None:
    """Remove a torn last line from a journal; otherwise the next append would continue that line."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with naming(path), os.fdopen(opened(path, os.O_RDWR), "r+b") as stream:
            stream.truncate(end)


def read_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset after the line, line) for the complete lines from byte `start` on; skip a torn last line."""
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, line


# The folders of a results folder that its cells share.
SHARED = (
    *("calibration", "evaluation", "jobs", "latency", "mlflow-artifacts"),
    *("published", "routing", "scores", "studies"),
)


def check_links(results: Path, *cells: Path) -> None:
    """Raise InputError if a folder in a results folder, or in one of its cells, is a symbolic link.

    A results folder can come from somebody else, and its links could lead anywhere. The results folder itself may be
    reached through a link.
    """
    inside = (Path(place) / name for cell in cells for place, names, _ in os.walk(cell) for name in names)
    for folder in (*(results / name for name in SHARED), *cells, *inside):
        if folder.is_symlink():
            raise InputError(
                f"{folder} is a symbolic link to {folder.readlink()}: a results folder holds its folders itself. "
                "Move the whole results folder to the other place."
            )


def check_writable(folder: Path, needed: int = 64 * MEBIBYTE) -> None:
    """Raise InputError if `folder` cannot be created or written, or if its disk has less than `needed` bytes free.

    Raises it also if a folder in it is a link (`check_links`).
    """
    check_links(folder)
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
