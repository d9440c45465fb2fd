"""SHA-256 digests of large files, computed once: a cache keeps them until a file changes.

An entry is valid for one path, size, inode, device, time of modification and time of change. Files in memory (tmpfs)
have no entry. Each entry is a file of its own in the user's cache folder. Processes that need the same digest wait
for the one that computes it. A damaged entry is computed again.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from pruning.core import atomic_files
from pruning.core.command import is_terminal
from pruning.core.errors import DamagedError, InputError
from pruning.core.hashing import State, file_state, settled, text_sha256
from pruning.core.units import MEBIBYTE, bytes_text
from pruning.core.wheel_assets import cache_folder

log = logging.getLogger(__name__)

SMALL = MEBIBYTE  # smaller files are read each time
LARGE = 1024 * MEBIBYTE  # from this size on, reading is announced and shown by a bar
CHUNK = 4 * MEBIBYTE

_memory: dict[Path, tuple[State, str]] = {}


def file_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, in hex; from the cache if the file has not changed.

    Raises InputError if a file cannot be read, or if it changes while it is read.
    """
    files = {path: path.resolve() for path in paths}
    unknown = [file for file in files.values() if not _known(file)]
    total = sum(_state(file)[0] for file in unknown)
    if total >= LARGE:
        log.info("reading %s of weights once, to identify the model", bytes_text(total))
    with _bar(total) as advance:
        return {path: _digest(file, advance) for path, file in files.items()}


def _digest(file: Path, advance: Callable[[int], object]) -> str:
    state = _state(file)
    if (known := _memory.get(file)) is not None and known[0] == state:
        return known[1]
    if state[0] < SMALL:
        return _read(file, state, advance)
    with _entry(file) as entry:
        if entry is not None and (kept := _kept(entry, state)) is not None:
            _memory[file] = (state, kept)
            return kept
        started = time.time_ns()
        digest = _read(file, state, advance)
        if settled(state, started):
            _memory[file] = (state, digest)
            if entry is not None:
                _keep(entry, {"path": str(file), "state": state, "sha256": digest})
        return digest


def _known(file: Path) -> bool:
    state = _state(file)
    known = _memory.get(file)
    return (known is not None and known[0] == state) or _kept(_entry_path(file), state) is not None


def _state(file: Path) -> State:
    try:
        return file_state(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(file: Path, state: State, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise _unreadable(file, error) from error
    if _state(file) != state:
        raise InputError(
            f"{file} changed while it was read: run the command again when the file is complete."
        )
    return digest.hexdigest()


def _unreadable(file: Path, error: OSError) -> InputError:
    return InputError(
        f"{file} cannot be read ({error.strerror}): correct the path or the file's permissions."
    )


def _entry_path(file: Path) -> Path:
    return cache_folder() / "digests" / f"{text_sha256(str(file))[:32]}.json"


def _kept(entry: Path, state: State) -> str | None:
    """The digest in an entry; None if the entry is absent, damaged, or of an earlier state of the file."""
    try:
        record = atomic_files.read_json(entry)
    except (OSError, DamagedError):
        return None
    if not isinstance(record, Mapping) or record.get("state") != state:
        return None
    digest = record.get("sha256")
    whole = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    return str(digest) if whole else None


def _keep(entry: Path, record: Mapping[str, object]) -> None:
    try:
        atomic_files.write_json(entry, dict(record))
    except OSError as error:
        _cannot_keep(entry, error)


@contextmanager
def _entry(file: Path) -> Iterator[Path | None]:
    """The path of a file's entry, locked against other processes; None if the cache cannot be written."""
    entry = _entry_path(file)
    lock = FileLock(f"{entry}.lock")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _cannot_keep(entry, error)
        yield None
        return
    try:
        yield entry
    finally:
        lock.release()


def _cannot_keep(entry: Path, error: Exception) -> None:
    log.warning(
        "%s cannot be written (%s), so large weights are read again by each command: name another folder with "
        "DEPTH_PRUNING_CACHE=DIR",
        entry.parent,
        getattr(error, "strerror", None) or type(error).__name__,
    )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """A function that counts bytes; for large files, a progress bar shows them."""
    if total < LARGE or sys.stderr is None:
        yield lambda _: None
        return
    interval = 0.2 if is_terminal(sys.stderr) else 20.0  # a log file gets a new line every 20 seconds at most
    with tqdm(
        desc="weights", total=total, unit="B", unit_scale=True, unit_divisor=1024, mininterval=interval
    ) as bar:
        yield bar.update
