"""The memory of devices, that they compute exactly, and which settings of passes a cell is known by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning.config.compose import recorded_cell
from pruning.engine import devices
from tests.helpers.jobs import job

FLAGS = ("allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


@pytest.fixture
def flags() -> Iterator[Any]:
    """PyTorch's flags for products, restored afterwards."""
    owner = torch.backends.cuda.matmul
    saved = {name: getattr(owner, name) for name in FLAGS}
    yield owner
    for name, value in saved.items():
        setattr(owner, name, value)


def test_products_are_exact(flags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for name in FLAGS:
        setattr(flags, name, True)
    devices.exact()
    assert not any(getattr(flags, name) for name in FLAGS)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_where_a_model_runs_does_not_change_the_cell_key(model_folder: Path, tmp_path: Path) -> None:
    words = ("algo=greedy", "k=2", "calibration.length=24")
    plain = job(model_folder, tmp_path / "results", *words)
    assert job(model_folder, tmp_path / "results", *words, "model.device_map=cpu").key == plain.key
    assert recorded_cell(plain.config).key == plain.key


def test_the_fullest_device_counts_and_disk_is_not_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 9, "meta": 0}
    monkeypatch.setattr(devices, "_free", lambda device: free[device.type])
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device="meta")])
    assert devices.devices(module) == [torch.device("cpu")]
    assert devices.devices(nn.Linear(2, 2, device="meta")) == [torch.device("cpu")]
    assert devices.free_memory(module) == 9
    assert devices.peak_memory(module) > 1 << 20


def test_the_limit_of_a_container_bounds_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, own = tmp_path / "groups", Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip("/\n")
    for group, limit, used in ((root, "max", 0), (root / own, "1000", 700)):
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    monkeypatch.setattr(devices, "GROUPS", root)
    assert devices.free_memory(nn.Linear(2, 2)) == 1000 - (700 - 100)
    monkeypatch.setattr(devices, "GROUPS", tmp_path / "absent")
    assert devices.free_memory(nn.Linear(2, 2)) > 1 << 20
