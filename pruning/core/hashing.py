"""Digests of files, texts and JSON data."""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

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


def settled(state: State, now: int) -> bool:
    """Whether a digest may be kept until the state changes; `now` is the time before the file was read."""
    return now - state[3] > WRITTEN_BACK and is_stamped(state)


def file_state(path: Path) -> State:
    """What changes if a file changes. A program can set the time of modification back, but not the time of change."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev]


def is_stamped(state: State) -> bool:
    """Whether each write changes the times of a file. In memory (tmpfs), a write through a mapping does not."""
    return _file_systems().get(state[4]) not in ("tmpfs", "ramfs", "hugetlbfs")


@lru_cache(maxsize=1)
def _file_systems() -> dict[int, str]:
    """The kind of the file system of each device, as far as Linux names it."""
    found: dict[int, str] = {}
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:  # such as `36 35 0:25 / /dev/shm rw,nosuid - tmpfs tmpfs rw`
        before, _, after = line.partition(" - ")
        major, _, minor = before.split()[2].partition(":")
        found[os.makedev(int(major), int(minor))] = after.split()[0]
    return found


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(data: Any) -> str:
    """The first eight hex digits of the SHA-256 of JSON data; the order of keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))[:8]
