"""Temporary files and folders beside their target; what a kill leaves behind is removed by the next writer.

A temporary name is `.NAME.part-MACHINE-RANDOM`. The process that creates it holds a lock (flock): on the file itself,
or, for a folder, on the file of the same name with `.lock` added. When the process ends, even by a kill, the
operating system releases the lock. MACHINE identifies the running operating system. Some shared file systems do not
show the locks of another machine, so what another machine made is removed only after a week.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

LOCK, BEFORE = ".lock", ".before"
PART = re.compile(rf"(\..*\.part-([0-9a-f]{{8}})-[0-9a-f]{{8}})(?:{LOCK}|{BEFORE})?", re.DOTALL)
WEEK = 7 * 24 * 3600
LONGEST = 200  # bytes of the target's name in a temporary name; file systems allow 255 in total


@contextmanager
def temporary_file(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a new binary file beside `target`, and its path. It is removed afterwards unless it was renamed."""
    descriptor, path = _claim(target)
    with os.fdopen(descriptor, "wb") as stream:
        try:
            yield stream, path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`. It is removed afterwards unless it was renamed."""
    descriptor, lock = _claim(target, LOCK)
    try:
        os.write(descriptor, os.fsencode(target.name))  # `_settle` reads this name
        folder = lock.with_name(lock.name.removesuffix(LOCK))
        try:
            folder.mkdir()
            yield folder
        finally:
            if not _beside(
                folder, BEFORE
            ).exists():  # else a replacement was not finished: `sweep` puts it right
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` that no living process owns; does not raise OSError."""
    try:
        matches = [match for path in folder.iterdir() if (match := PART.fullmatch(path.name))]
    except OSError:
        return
    for name, machine in {match[1]: match[2] for match in matches}.items():
        with suppress(OSError):
            if machine == _machine() or time.time() - _changed(folder / name) > WEEK:
                _remove_abandoned(folder / name)


def _claim(target: Path, ending: str = "") -> tuple[int, Path]:
    """A new locked file beside `target`: its descriptor and its path."""
    stem = os.fsencode(target.name)[:LONGEST].decode(errors="ignore")
    while True:
        path = target.with_name(f".{stem}.part-{_machine()}-{secrets.token_hex(4)}{ending}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _locked(descriptor) and path.exists():
            return descriptor, path
        os.close(descriptor)  # another process took the file for an abandoned one before it was locked


def _locked(descriptor: int) -> bool:
    """Lock a new file; returns False if another process has locked it. A file system may have no locks at all."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # then no other process can lock this file either, so it is not removed
    return True


def _remove_abandoned(path: Path) -> None:
    """Remove a temporary file or folder, unless a living process has its lock. Raises OSError if that is so."""
    lock = path if path.is_file() else _beside(path, LOCK)
    if not lock.is_file():  # the owner removed its lock last, so it has ended
        _settle(path, None)
        return
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock != path:
            _settle(path, os.fsdecode(os.pread(descriptor, 255, 0)))
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _settle(path: Path, name: str | None) -> None:
    """Remove an abandoned folder. If it was about to replace its target `name`, put the target back first."""
    before = _beside(path, BEFORE)
    if not path.exists():
        shutil.rmtree(before, ignore_errors=True)  # the new folder has taken its place
    elif before.exists() and name:
        before.rename(path.with_name(name))  # raises OSError if another folder is there: then both are kept
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _changed(path: Path) -> float:
    """The time in seconds at which a temporary file, or anything in a temporary folder, changed last."""
    parts = [path, _beside(path, LOCK), _beside(path, BEFORE), *path.rglob("*")]
    return max((part.lstat().st_mtime for part in parts if part.exists()), default=0.0)


@lru_cache(maxsize=1)
def _machine() -> str:
    """Eight hex digits that identify the running operating system: the boot id of Linux, else the host's name."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:8]
