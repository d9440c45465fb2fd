"""Processes of this machine, by a unique name that is never reused."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from pruning.launcher.slurm_queue import Info


def process_name(pid: int) -> str:
    """A unique name for a process; the name contains the start time, because the system reuses process numbers."""
    import psutil

    return f"process-{socket.gethostname()}-{pid}-{int(psutil.Process(pid).create_time())}"


def process(name: str) -> Info:
    """The state of a process, by its name; a process on another machine is assumed to run."""
    import psutil

    host, pid, born = name.removeprefix("process-").rsplit("-", 2)
    if host != socket.gethostname():
        return Info(True, False, f"on {host}", 0.0)
    try:
        candidate = psutil.Process(int(pid))
        alive = int(candidate.create_time()) == int(born) and candidate.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        alive = False
    return Info(alive, False, "", time.time() - int(born) if alive else 0.0)


def end(name: str) -> None:
    """Stop a process of this machine and all its descendants."""
    import psutil

    if not process(name).active or f"-{socket.gethostname()}-" not in name:
        return
    first = psutil.Process(int(name.rsplit("-", 2)[1]))
    family = [first, *first.children(recursive=True)]
    for member in family:
        _signal(member.terminate)
    _, left = psutil.wait_procs(family, timeout=3)
    for member in left:
        _signal(member.kill)


def _signal(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
