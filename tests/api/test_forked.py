"""A call in a forked process answers: it does not wait for threads that only the parent has."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pruning.engine import devices
from tests.helpers.subprocesses import ROOT

# The parent's first search starts torch's threads. Before this, the child's product would never end.
SCRIPT = """
import multiprocessing, sys
import pruning, torch

def searched(model):
    text = "a model reads these words, and then it reads some more of them. " * 20
    return pruning.search_mask(model, [text] * 4, k=1, length=32, progress=False).mask.dropped

def child(model, answers):
    answers.put((searched(model), torch.get_num_threads()))

model = pruning.load_model(sys.argv[1], dtype="float32")
torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
parent, forked = searched(model), multiprocessing.get_context("fork")
process = forked.Process(target=child, args=(model, answers := forked.Queue()), daemon=True)
process.start()
assert answers.get() == (parent, 1)
assert torch.get_num_threads() == 2
print("equal masks")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_search_in_a_forked_process_finds_the_mask_of_its_parent(model_folder: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(model_folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "equal masks" in ended.stdout
    assert "spawn" in ended.stderr


@pytest.mark.parametrize(("forked", "threads", "chosen"), [(True, 4, [1]), (True, 1, []), (False, 4, [])])
def test_only_a_forked_process_with_several_threads_gets_one(
    forked: bool,
    threads: int,
    chosen: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(devices, "PROCESS", os.getpid() - forked)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with caplog.at_level(logging.WARNING):
        devices.survive_fork()
    assert asked == chosen
    assert ("spawn" in caplog.text) == bool(chosen)
