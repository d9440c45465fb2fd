"""Commands that are killed at random moments: the same command then ends as if nothing had happened.

`make soak` does it 100 times. `make test-slow` kills each operation once, without healing, which takes seconds.
SOAK_SEED chooses the moments, and a failure names the seed that repeats it.
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

from tests.helpers import gguf_models, processes, soak_operations
from tests.helpers.soak_operations import cells, files, healings, leftovers

KILLS = int(os.environ.get("TEST_SOAK", "4"))  # in all
SEED = int(os.environ.get("SOAK_SEED", "0"))
MOST = 3  # kills of one run, before it may end

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


OPERATIONS = [
    Operation("search", None, cells),
    Operation("evaluation", "search", cells),
    Operation("export", "search", lambda folder: files(folder / "out"), "out"),
    Operation("cutting", None, lambda folder: files(folder / "cut")),
    *([Operation("healing", "search", healings)] if "TEST_SOAK" in os.environ else []),
]
EACH = -(-KILLS // len(OPERATIONS))  # kills of each operation


@pytest.mark.slow
def test_a_killed_command_ends_as_if_nothing_had_happened(tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "work" / "model")
    done: dict[str | None, Path] = {None: tmp_path / "work" / "start" / "run"}
    gguf_models.write(tmp_path / "work" / "start" / "run" / "soak_gguf" / "tiny.gguf", type_="Q8_0")
    output = tmp_path / "log"
    for operation in OPERATIONS:
        reference = tmp_path / "work" / operation.name / "reference"
        shutil.copytree(done[operation.after], reference)
        status, seconds = operation.run(output, reference)
        assert status == 0, output.read_text()[-3000:]
        done[operation.name], wanted = reference, operation.made(reference)
        assert wanted
        kills = trial = 0
        while kills < EACH:
            trial += 1
            chance = random.Random(f"{SEED} {operation.name} {trial}")
            folder = reference.with_name(f"trial{trial}")
            shutil.copytree(done[operation.after], folder)
            what = f"{operation.name}, trial {trial}, SOAK_SEED={SEED}"
            for _ in range(chance.randint(1, min(MOST, EACH))):
                status, _ = operation.run(output, folder, kill_after=chance.random() * seconds)
                assert status in (0, -signal.SIGKILL), f"{what}: {output.read_text()[-3000:]}"
                if operation.whole is not None:
                    assert files(folder / operation.whole).items() <= wanted.items(), "a file is not whole"
                if status == 0:
                    break
                kills += 1
            status, _ = operation.run(output, folder)
            assert status == 0, f"{what}: {output.read_text()[-3000:]}"
            assert operation.made(folder) == wanted, what
            assert not leftovers(folder, reference), what
            log.info("%s: %d kills of %.2f s", what, kills, seconds)
            shutil.rmtree(folder)
