"""Two ranks train as one process does, up to the rounding of sums, and a stop of both changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning.core.errors import InputError
from pruning.engine import collectives
from pruning.healing.healed_files import WEIGHTS, write_healed
from pruning.healing.loop import heal
from pruning.healing.training import Trainer
from tests.healing.worlds import MASK, distill, full, text, tiny
from tests.helpers.processes import meet, started

SETTINGS = distill(weights="full", lr=3e-3, ce=1.0, kl=0.1, hidden=0.1, micro_tokens=16)


def worker(rank: int, size: int, port: int, folder: Path) -> None:
    meet(rank, size, port)
    with collectives.joined_ranks():
        assert collectives.world_size() == 2
        found = heal(tiny(), MASK, text(SETTINGS), SETTINGS, folder)
        write_healed(folder / SETTINGS.key(text(SETTINGS).sha256), found, text(SETTINGS), SETTINGS)


def test_two_ranks_give_the_weights_of_one_process(tmp_path: Path) -> None:
    started(worker, 2, tmp_path)
    written = load_file(tmp_path / SETTINGS.key(text(SETTINGS).sha256) / WEIGHTS)
    alone = heal(tiny(), MASK, text(SETTINGS), SETTINGS)
    start = tiny().module.state_dict()
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(written[name], tensor, rtol=1e-3, atol=1e-4)
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in alone.tensors.items())
    assert moved > 3e-3, "the differences above are small beside the training itself"


def test_more_ranks_than_windows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "world_size", lambda: 8)
    settings = full()
    with pytest.raises(InputError, match="a step has 4 windows, which 8 ranks cannot share"):
        Trainer(tiny().module, [], text(settings), settings, None)  # type: ignore[arg-type]
