"""Two processes write their journals, read each other's, and are killed; nothing that was written is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

from pruning.core.mask import Mask
from pruning.core.scoring import Score
from pruning.search.journal import Journal, Store, claim

N_BLOCKS = 40  # three of them can be removed in 9,880 ways, more than the processes can score


def loss_of(mask: Mask) -> float:
    return random.Random(str(mask.dropped)).random()


def work(results: Path, cell: str, seed: int) -> None:
    """Score random masks for ever; use the other process's score if it has one."""
    (results / cell).mkdir(exist_ok=True)
    journal, store = (
        Journal.open(results / cell / "trace.jsonl", N_BLOCKS),
        Store(results, "key", cell, N_BLOCKS),
    )
    claim(results, "key", cell)
    rng = random.Random(seed)
    while True:
        mask = Mask(N_BLOCKS, tuple(rng.sample(range(N_BLOCKS), 3)))
        known = next(iter(store.find([mask])), None)
        if known is not None:
            assert known.loss == loss_of(mask)
        journal.add(known or Score(mask, loss_of(mask), (loss_of(mask),) * 50, seconds=1.0))


def killed_after(results: Path, lines: int, seed: int) -> None:
    """Start both processes, wait until each has written `lines` more lines, kill both."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(results, cell, seed + i), daemon=True)
        for i, cell in enumerate("ab")
    ]
    before = count(results)
    for process in processes:
        process.start()
    deadline = time.monotonic() + 30
    while (
        any(n < m + lines for n, m in zip(count(results), before, strict=True))
        and time.monotonic() < deadline
    ):
        time.sleep(0.001)
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert time.monotonic() < deadline, "the processes wrote too few lines"


def count(results: Path) -> list[int]:
    paths = [results / cell / "trace.jsonl" for cell in "ab"]
    return [path.read_bytes().count(b"\n") if path.exists() else 0 for path in paths]


def test_two_processes_under_kill_9_lose_nothing(tmp_path: Path) -> None:
    for attempt in range(3):
        killed_after(tmp_path, lines=15, seed=10 * attempt)
        with (tmp_path / "a" / "trace.jsonl").open("ab") as stream:
            stream.write(b'{"dropped": [1, 2')  # as after a kill in the middle of a write
        written = count(tmp_path)
        journals = {cell: Journal.open(tmp_path / cell / "trace.jsonl", N_BLOCKS) for cell in "ab"}
        assert [len(journal.scores) for journal in journals.values()] == written, "each mask once, none lost"
        for cell, other in ("ab", "ba"):
            store = Store(tmp_path, "key", cell, N_BLOCKS)
            for mask, score in journals[other].scores.items():
                (shared,) = store.find([mask])
                assert shared.loss == score.loss == loss_of(mask)
