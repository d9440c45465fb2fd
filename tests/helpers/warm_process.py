"""Run functions in forks of one process that has imported everything, so that many can be killed at little cost."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Warm:
    """A process that forks for each call; `modules` are imported first."""

    def __init__(self, modules: Sequence[str], log: Path) -> None:
        command = [sys.executable, "-m", "tests.helpers.warm_process", str(log), *modules]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.log = log
        self._line()

    def run(self, function: str, *arguments: str, kill_after: float | None = None) -> tuple[int, float]:
        """Call `module.function(*arguments)` in a fork, and kill it after so many seconds.

        Returns the exit status, -9 if it was killed, and the seconds that it ran.
        """
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps([function, arguments]) + "\n").encode())
        pid, started = int(self._line()), time.monotonic()
        if kill_after is not None and not select.select([self.process.stdout], [], [], kill_after)[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self._line()), time.monotonic() - started

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def _serve(log: str, modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    os.write(1, b"ready\n")
    while line := sys.stdin.buffer.readline():
        if (pid := os.fork()) == 0:
            _run(log, *json.loads(line))
        os.write(1, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(log: str, function: str, arguments: Sequence[str]) -> None:
    """Call the function in this fork and exit: with 0, with the status of SystemExit, or with 1 after an error."""
    import traceback

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status: Any = 1
    try:
        module, _, name = function.rpartition(".")
        getattr(importlib.import_module(module), name)(*arguments)
        status = 0
    except SystemExit as end:
        status = end.code or 0
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
