"""Commands that are killed at random moments: the same command then ends as if nothing had happened.

`make soak` does it 100 times. `make test-slow` kills each operation once, without tracking and healing, which take
seconds. SOAK_SEED chooses the moments, and a failure names the seed that repeats it.
SOAK_ONLY=export,unpacking chooses operations.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from analysis.data import archive
from tests.helpers import gguf_models, processes, soak_operations
from tests.helpers.soak_operations import cells, files, healings, leftovers, recorded

KILLS = int(os.environ.get("TEST_SOAK", "5"))  # in all
SEED = int(os.environ.get("SOAK_SEED", "0"))
MOST = 3  # kills of one run, before it may end
PARTS = 5  # of a run's time, in the table of kills

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Operation:
    """What is killed, what has to be there first, what it makes, and what may be there after a kill."""

    name: str
    after: str | None
    made: Callable[[Path], Any]
    whole: str | None = None  # a folder in which each file is whole at any time

    def run(self, log: Path, folder: Path, kill_after: float | None = None) -> tuple[int, float]:
        """Run the operation in a folder; returns its exit status and its seconds."""
        work, modules = getattr(soak_operations, self.name), soak_operations.MODULES
        return processes.killed(work, str(folder), log=log, modules=modules, kill_after=kill_after)


OPERATIONS = (
    Operation("search", None, cells),
    Operation("evaluation", "search", cells),
    Operation("tracking", "search", recorded),
    Operation("export", "search", lambda folder: files(folder / "out"), "out"),
    Operation("healing", "search", healings),
    Operation("packing", "search", lambda folder: files(folder / "packed"), "packed"),
    Operation("cutting", None, lambda folder: files(folder / "cut")),
    Operation("conversion", None, lambda folder: files(folder / "cache" / "models"), "cache/models"),
    Operation("unpacking", None, lambda folder: files(folder / "unpacked"), "unpacked"),
)
LONG = ("tracking", "healing")  # a new store takes seconds to make, and a healing many steps
USUAL = [item.name for item in OPERATIONS if "TEST_SOAK" in os.environ or item.name not in LONG]
CHOSEN = os.environ.get("SOAK_ONLY", ",".join(USUAL)).split(",")
EACH = -(-KILLS // len(USUAL))  # kills of each operation


@pytest.fixture
def start(tmp_path: Path, model_folder: Path) -> Path:
    """The folder from which operations without a predecessor start."""
    shutil.copytree(model_folder, tmp_path / "work" / "model")
    folder = tmp_path / "work" / "start" / "run"
    (folder / "soak_gguf").mkdir(parents=True)
    gguf_models.write(folder / "soak_gguf" / "tiny.gguf", type_="Q8_0")
    many = tmp_path / "many"
    (many / "studies").mkdir(parents=True)
    (many / "studies" / "many.json").write_text('{"study": "many", "cells": []}')
    for number in range(200):
        (many / "calibration").mkdir(exist_ok=True)
        (many / "calibration" / f"{number}.jsonl").write_bytes(random.Random(number).randbytes(20_000))
    archive.pack(many, ["many"], folder / "many.tar.xz")
    return folder


def killed(output: Path, operation: Operation, folder: Path, wanted: Any, delay: float) -> bool:
    """Kill a run after a delay; returns whether it was killed before it ended. What is there is checked."""
    status, _ = operation.run(output, folder, kill_after=delay)
    assert status in (0, -signal.SIGKILL), output.read_text()[-3000:]
    if operation.whole is not None:
        assert files(folder / operation.whole).items() <= wanted.items(), "a file is not whole"
    return status != 0


@pytest.mark.slow
def test_a_killed_command_ends_as_if_nothing_had_happened(start: Path, tmp_path: Path) -> None:
    done: dict[str | None, Path] = {None: start}
    table: dict[str, list[int]] = {}
    output = tmp_path / "log"
    for operation in (item for item in OPERATIONS if item.name in (*CHOSEN, "search")):
        reference = tmp_path / "work" / operation.name / "reference"
        shutil.copytree(done[operation.after], reference)
        status, seconds = operation.run(output, reference)
        assert status == 0, output.read_text()[-3000:]
        done[operation.name], wanted = reference, operation.made(reference)
        assert wanted
        kills = table[f"{operation.name} ({seconds:.2f} s)"] = [0] * PARTS
        trial = 0
        while operation.name in CHOSEN and sum(kills) < EACH:
            trial += 1
            chance = random.Random(f"{SEED} {operation.name} {trial}")
            folder = reference.with_name(f"trial{trial}")
            shutil.copytree(done[operation.after], folder)
            for _ in range(chance.randint(1, min(MOST, EACH))):
                share = chance.random()
                if not killed(output, operation, folder, wanted, share * seconds):
                    break
                kills[int(share * PARTS)] += 1
            status, _ = operation.run(output, folder)
            what = f"{operation.name}, trial {trial}, SOAK_SEED={SEED}"
            assert status == 0, f"{what}: {output.read_text()[-3000:]}"
            assert operation.made(folder) == wanted, what
            left = leftovers(folder, reference)
            log.info("%s: %s, left over: %s", what, kills, sorted(left) or "nothing")
            assert not left, what
            shutil.rmtree(folder)
    for name, kills in table.items():
        log.info("%s: %d kills, by fifth of its time %s", name, sum(kills), kills)
