"""What a Python command of this repository costs, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class CommandCost:
    """Wall seconds, CPU seconds with those of child processes, peak memory in MiB, and what was printed."""

    seconds: float
    cpu: float
    memory: float
    printed: str


def python(*words: str, **environment: str) -> CommandCost:
    """The cost of `python WORDS` with more environment variables. Exits if the command fails."""
    started = time.perf_counter()
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"} | environment
    command = [sys.executable, *words]
    process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}.")
    seconds = time.perf_counter() - started
    return CommandCost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, printed)
