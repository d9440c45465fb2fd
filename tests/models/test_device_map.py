"""The devices of weights: planned for simulated GPUs, and refused with sizes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import LlamaConfig

from pruning.core.errors import InputError
from pruning.models.handle import Model
from pruning.models.placement import device_options

GIB = 1 << 30
LLAMA3 = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulate GPUs of 80 GiB with the given GiB free, and the given GiB of main memory."""

    def pretend(*gpus: float, memory: float = 64) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (int(gpus[gpu] * GIB), 80 * GIB))
        available = type("Memory", (), {"available": int(memory * GIB)})
        monkeypatch.setattr("psutil.virtual_memory", lambda: available)

    return pretend


def options(device_map: str = "auto") -> dict[str, Any]:
    return device_options("llama3", "bfloat16", device_map, LLAMA3)


def test_what_fits_one_device_goes_there_whole(machine: Any) -> None:
    for gpus, expected in (((30, 80), {"device_map": {"": 0}}), ((), {})):
        machine(*gpus)
        assert options() == expected
    machine(80)
    assert options("cpu") == {}


def test_what_does_not_fit_one_gpu_is_spread_over_several(machine: Any) -> None:
    machine(19, 19, 19)  # 11 GiB for weights each
    chosen = options()["device_map"]
    assert set(chosen.values()) == {0, 1, 2}
    blocks = {name: device for name, device in chosen.items() if re.fullmatch(r"model\.layers\.\d+", name)}
    assert len(blocks) == 32  # no block is split
    assert list(blocks.values()) == sorted(blocks.values())


def test_what_fits_nowhere_is_refused_with_all_sizes_and_what_to_do(machine: Any) -> None:
    machine(12, 12.5)
    with pytest.raises(InputError) as refused:
        options()
    text = str(refused.value)
    sizes = ("needs 16.06 GB", "GPU 0 4.29 GB, GPU 1 4.83 GB", "main memory 61.8")
    for part in (*sizes, "bfloat16", "model.resources.gpus_per_rank", "model.dtype"):
        assert part in text
    machine(memory=10)
    with pytest.raises(InputError, match=r"main memory 9\.66 GB"):
        options()
    with pytest.raises(InputError, match=r"model\.device_map 'cude'"):
        Model("llama3", "hub", "meta-llama/Meta-Llama-3-8B", device_map="cude")
