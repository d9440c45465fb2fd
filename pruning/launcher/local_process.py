"""Processes of this machine by a name that is never given twice."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from pruning.launcher.slurm_queue import Info


def process_name(pid: int) -> str:
    """A name by which `process` knows a process again, even when its number belongs to another one."""
    import psutil

    return f"process-{socket.gethostname()}-{pid}-{int(psutil.Process(pid).create_time())}"


def process(name: str) -> Info:
    """What is known of a process; one on another machine is taken to run."""
    import psutil

    host, pid, born = name.removeprefix("process-").rsplit("-", 2)
    if host != socket.gethostname():
        return Info(True, False, f"on {host}", 0.0)
    try:
        found = psutil.Process(int(pid))
        alive = int(found.create_time()) == int(born) and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        alive = False
    return Info(alive, False, "", time.time() - int(born) if alive else 0.0)


def end(name: str) -> None:
    """Stop a process of this machine and all that it started."""
    import psutil

    if not process(name).active or f"-{socket.gethostname()}-" not in name:
        return
    first = psutil.Process(int(name.rsplit("-", 2)[1]))
    family = [first, *first.children(recursive=True)]
    for one in family:
        _signal(one.terminate)
    _, left = psutil.wait_procs(family, timeout=3)
    for one in left:
        _signal(one.kill)


def _signal(action: Callable[[], None]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        action()
