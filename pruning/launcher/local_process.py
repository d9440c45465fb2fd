"""Processes of this machine, by a unique name that is never reused."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.launcher.slurm_queue import Info

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)


def process_name(pid: int) -> str:
    """A unique name for a process; the name contains the start time, because the system reuses process numbers."""
    import psutil

    return f"process-{socket.gethostname()}-{pid}-{int(psutil.Process(pid).create_time())}"


def process(name: str) -> Info:
    """The state of a process, by its name; a process on another machine is assumed to run."""
    host, _, born = _parts(name)
    if not is_here(name):
        return Info(True, False, f"on {host}", 0.0)
    alive = _living(name) is not None
    return Info(alive, False, "", time.time() - born if alive else 0.0)


def is_here(name: str) -> bool:
    """Whether a process belongs to this machine, by its name."""
    return _parts(name)[0] == socket.gethostname()


def end(name: str, results: Path) -> None:
    """Stop a process of this machine and all its descendants.

    A process whose command line names no file in the results folder stays: a folder from somebody else can name any.
    """
    import psutil

    if (first := _living(name)) is None:
        return
    places = {str(results), str(results.resolve())}
    with contextlib.suppress(psutil.Error):
        if not any(place in word for word in first.cmdline() for place in places):
            log.warning("process %d is not a job of %s, and is not stopped", first.pid, results)
            return
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        _end_family([first, *first.children(recursive=True)])


def _end_family(family: Sequence[psutil.Process]) -> None:
    import psutil

    for member in family:
        _signal(member.terminate)
    _, left = psutil.wait_procs(family, timeout=3)
    for member in left:
        _signal(member.kill)


def _parts(name: str) -> tuple[str, int, int]:
    """The host, the number and the start time in a name; a host can contain dashes."""
    host, pid, born = name.removeprefix("process-").rsplit("-", 2)
    return host, int(pid), int(born)


def _living(name: str) -> psutil.Process | None:
    """The process of this machine with this name; None if it has ended.

    psutil refuses to signal it if its number belongs to another process by then.
    """
    import psutil

    _, pid, born = _parts(name)
    if not is_here(name):
        return None
    try:
        found = psutil.Process(pid)
        alive = int(found.create_time()) == born and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return found if alive else None


def _signal(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
