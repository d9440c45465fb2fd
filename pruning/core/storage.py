"""Read and write the files of a results folder: whole files atomically, journals line by line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeAlias

from pruning.core.errors import DamagedError, InputError, os_error
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


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object atomically with a seal, so that `read_json` finds a value that was changed by hand."""
    write_json(path, sealed(data))


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal: the beginning of the SHA-256 of its other entries."""
    own = {name: value for name, value in data.items() if name != SEAL}
    return {**data, SEAL: text_sha256(json.dumps(own, sort_keys=True))[:16]}


def unsealed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """A JSON object of a file without its seal. Raises DamagedError if it has a seal of other contents."""
    if SEAL in data and data != sealed(data):
        raise DamagedError(
            f"{path} was changed after it was written: its contents do not have the digest in its entry '{SEAL}'. "
            "Restore it, or move it away and run again."
        )
    return {name: value for name, value in data.items() if name != SEAL}


def read_json(path: Path) -> Any:
    """Read a JSON file. An object that has a seal is returned without it.

    Raises DamagedError, which names the file, if the content is not JSON or does not have the digest of its seal.
    """

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object of some entries. Raises ValueError if two have one name: the first would be lost."""
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
        return found

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_twins)
    except (ValueError, RecursionError) as error:  # such as a number of 5,000 digits, or too many brackets
        raise DamagedError(f"{path} is damaged ({error}): move it away and run again.") from error
    return unsealed(data, path) if isinstance(data, dict) else data


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


# Journals: files to which lines are appended.


def append_line(path: Path, data: Any) -> None:
    """Append one JSON line in a single write, so that a kill can tear at most the last line.

    Raises OSError, which names the file, if the line could not be written as a whole.
    """
    line = (json.dumps(data, allow_nan=False) + "\n").encode()
    with naming(path):
        descriptor = opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "the disk is full, or a quota is used up", str(path))
        finally:
            os.close(descriptor)


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


# Digests of files, texts and JSON data.

SMALL = 1 << 16  # bytes; smaller files are read each time
# A file that has changed within this time can change again without a new time stamp, so its digest is not kept: a
# program that has mapped a file gives it no new stamp until the system has written the page back, after 30 seconds.
WRITTEN_BACK = 35_000_000_000  # nanoseconds

# Size, inode, the times of modification and of change in nanoseconds, and device.
State: TypeAlias = list[int]
_memory: dict[Path, tuple[State, str]] = {}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex. Raises OSError if the file cannot be read.

    A process reads a large file once, and again only after the file has changed.
    """
    state, started = file_state(path), time.time_ns()
    place = path.absolute()
    if (known := _memory.get(place)) is not None and known[0] == state:
        return known[1]
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if state[0] >= SMALL and settled(state, started) and file_state(path) == state:
        _memory[place] = (state, sha256)
    return sha256


def file_state(path: Path) -> State:
    """What changes if a file changes. A program can set the time of modification back, but not the time of change."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev]


def settled(state: State, now: int) -> bool:
    """Whether a digest may be kept until the state changes; `now` is the time before the file was read."""
    return now - state[3] > WRITTEN_BACK


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: Any) -> str:
    """The first eight hex digits of the SHA-256 of JSON data; the order of keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))[:8]


# Write beside a target, so that others see it complete or not at all: build it under a hidden name, then rename it.
#
# The hidden name is `.NAME.part-RANDOM`. What a kill leaves behind is removed by a later writer, once nothing in it
# has changed for a day: then no living process writes it.

BEFORE = ".before"
PART = re.compile(rf"\.(.*)\.part-[0-9a-f]{{8}}({BEFORE})?", re.DOTALL)
DAY, MINUTE = 24 * 3600, 60
LONGEST = 200  # bytes of the target's name in a hidden name; file systems allow 255 in total


@contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    """Yield a new hidden path beside `target`. What is there afterwards is removed; a rename takes it away."""
    stem = os.fsencode(target.name)[:LONGEST].decode(errors="ignore")
    path = target.with_name(f".{stem}.part-{secrets.token_hex(4)}")
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def temporary_file(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a new binary file beside `target`, and its path. It is removed afterwards unless it was renamed."""
    with _hidden(target) as path, path.open("xb") as stream:
        yield stream, path


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a hidden directory beside `target`; it is removed afterwards unless it was published.

    First removes what killed processes have left there. Raises OSError if the directory cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    with _hidden(target) as partial:
        partial.mkdir()
        yield partial


def publish(partial: Path, target: Path) -> None:
    """Rename a complete directory to `target`. If another process has published `target` first, keep that one."""
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():
            raise


def replace(partial: Path, target: Path) -> None:
    """Rename a complete directory of `staged` to `target`, replacing an existing one.

    If that fails, the existing one stays.
    """
    if not target.exists():
        partial.rename(target)
        return
    aside = partial.with_name(partial.name + BEFORE)
    target.rename(aside)
    try:
        partial.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove the hidden files and folders in `folder` that nobody writes any more; does not raise OSError.

    If a kill came between the two renames of `replace`, first puts the earlier directory back.
    """
    with suppress(OSError):
        for path, match in [(path, PART.fullmatch(path.name)) for path in folder.iterdir()]:
            if match is None:
                continue
            with suppress(OSError):
                changed = [part.lstat().st_mtime for part in path.rglob("*")] if path.is_dir() else []
                age = time.time() - max(path.lstat().st_ctime, *changed, 0.0)
                if match[2] and age > MINUTE and not path.with_name(match[1]).exists():
                    path.rename(path.with_name(match[1]))
                elif age > DAY and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif age > DAY:
                    path.unlink()


@lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    """Sweep a folder when this process first writes there."""
    sweep(folder)
