"""Run jobs with planned faults: `launcher.python="python faulty.py PLAN"`, where PLAN is a JSON file.

PLAN is {part of a cell's name: {"after": lines of its journal, "do": raise, exit, kill or hold}}. Each fault happens
once per cell, except `hold`, which waits for the file PLAN.go every time. PLAN.CELL lists what a job computes and
writes.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def misbehave(plan: Path, cell: str, lines: int) -> None:
    for part, fault in json.loads(plan.read_text()).items():
        if part not in cell or lines != fault["after"]:
            continue
        go, done = plan.with_name(f"{plan.name}.go"), plan.with_name(f"{plan.name}.{fault['do']}.{cell}")
        if fault["do"] == "hold":
            while not go.exists():
                time.sleep(0.1)
        elif not done.exists():
            done.touch()
            FAULTS[fault["do"]]()


def fail() -> None:
    raise RuntimeError("a planned fault")


FAULTS: dict[str, Callable[[], object]] = {
    "raise": fail,
    "exit": lambda: os._exit(9),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def watch(plan: Path) -> None:
    """Log each computation and each written line, and carry out the planned fault after a line is written."""
    from pruning.core import storage
    from pruning.search.journal import ScoreBook

    append, join = storage.append_line, ScoreBook._joined

    def append_line(path: Path, data: Any) -> None:
        append(path, data)
        note(path, "written", data["dropped"])
        misbehave(plan, path.parent.name, path.read_bytes().count(b"\n"))

    def joined(book: Any, mask: Any, *rest: Any) -> Any:
        note(book.journal.path, "computed", list(mask.dropped))
        return join(book, mask, *rest)

    def note(path: Path, what: str, dropped: list[int]) -> None:
        with plan.with_name(f"{plan.name}.{path.parent.name}").open("a") as stream:
            stream.write(f"{what} {dropped}\n")

    storage.append_line, ScoreBook._joined = append_line, joined  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    plan = Path(sys.argv[1])
    module = sys.argv.index("-m") + 1
    sys.argv = sys.argv[module:]
    watch(plan)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
