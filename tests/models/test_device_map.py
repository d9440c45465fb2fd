"""The devices of weights: planned for simulated GPUs, refused with sizes, and really read from disk."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.models.handle import Model
from pruning.models.sublayers import masked
from tests.conftest import N_BLOCKS, Command
from tests.helpers.evaluations import items_file
from tests.helpers.rows import text_rows

GIB = 1 << 30
LLAMA3 = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip


def llama3(**settings: Any) -> Model:
    return Model("llama3", "hub", "meta-llama/Meta-Llama-3-8B", **settings)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulate GPUs of 80 GiB with the given GiB free, and the given GiB of main memory."""

    def pretend(*gpus: float, memory: float = 64) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (int(gpus[gpu] * GIB), 80 * GIB))
        available = type("Memory", (), {"available": int(memory * GIB)})
        monkeypatch.setattr("psutil.virtual_memory", lambda: available)

    return pretend


def options(**settings: Any) -> dict[str, Any]:
    return llama3(**settings).placing.options(LLAMA3)


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        ((30, 80), {}, {"device_map": {"": 0}}),
        ((), {}, {}),
        ((80,), {"device_map": "cpu"}, {}),
        ((80,), {"offload": "/scratch"}, {"device_map": {"": 0}}),  # not used if it is not needed
    ],
)
def test_what_fits_one_device_goes_there_whole(
    machine: Any, gpus: tuple[float, ...], settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    machine(*gpus)
    assert options(**settings) == expected


def test_what_does_not_fit_one_gpu_is_spread_over_several(machine: Any) -> None:
    machine(19, 19, 19)  # 11 GiB for weights each
    chosen = options()["device_map"]
    assert set(chosen.values()) == {0, 1, 2}
    blocks = {name: device for name, device in chosen.items() if re.fullmatch(r"model\.layers\.\d+", name)}
    assert len(blocks) == 32  # no block is split
    assert list(blocks.values()) == sorted(blocks.values())


def test_what_does_not_fit_goes_to_memory_and_disk_if_offload_is_set(machine: Any) -> None:
    machine(16, memory=7)
    chosen = options(offload="/scratch")
    assert chosen["offload_folder"] == "/scratch"
    assert set(chosen["device_map"].values()) == {0, "cpu", "disk"}


def test_what_fits_nowhere_is_refused_with_all_sizes_and_what_to_do(machine: Any) -> None:
    machine(12, 12.5)
    with pytest.raises(InputError) as refused:
        options()
    text = str(refused.value)
    sizes = ("needs 16.06 GB", "GPU 0 4.29 GB, GPU 1 4.83 GB", "main memory 61.8")
    for part in (*sizes, "bfloat16", "model.resources.gpus_per_rank", "model.dtype", "model.offload=DIR"):
        assert part in text
    machine(memory=10)
    with pytest.raises(InputError, match=r"main memory 9\.66 GB"):
        options()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": {"7": "9GiB"}}, r"names 7, but .* 0, 1, cpu"),
        ({"max_memory": {"0": "much"}}, r"model\.max_memory\.0=much"),
        ({"max_memory": "9GiB"}, r"model\.max_memory=9GiB"),
        ({"device_map": "cude"}, r"model\.device_map 'cude'"),
    ],
)
def test_limits_are_heeded_and_checked(machine: Any, settings: dict[str, Any], message: str) -> None:
    machine(80, 80)
    assert set(options(max_memory={"0": "9GiB"})["device_map"].values()) == {0, 1}
    with pytest.raises(InputError, match=message):
        options(**settings)


def test_the_identity_ignores_where_weights_are_stored() -> None:
    assert llama3(offload="/scratch", max_memory={"0": "9GiB"}).identity() == llama3().identity()


def test_a_model_on_disk_gives_the_same_and_skipped_blocks_are_not_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model with room for a part of it in memory and the rest on disk."""
    from accelerate.utils import OffloadedWeightsLoader

    whole = Model("tiny", "local", str(model_folder), dtype="float32")
    size = (model_folder / "model.safetensors").stat().st_size
    half = replace(whole, max_memory={"cpu": str(int(size * 0.75))}, offload=str(tmp_path))
    models = half.load_anew(), whole.load_anew()
    read, reads = OffloadedWeightsLoader.__getitem__, Counter[int]()

    def counting(self: Any, key: str) -> Any:
        if match := re.search(r"layers\.(\d+)\.", key):
            reads[int(match[1])] += 1
        return read(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counting)
    on_disk, in_memory = (
        [i for i, block in enumerate(find_blocks(model.module).modules)
         if any(p.device.type == "meta" for p in block.parameters())]
        for model in models
    )  # fmt: skip
    assert 2 <= len(on_disk) < N_BLOCKS
    assert not in_memory
    assert not list(tmp_path.iterdir())  # the checkpoint is read where it is
    reads.clear()
    skipped, *kept = on_disk
    masks = [Mask(N_BLOCKS, (0, skipped)), Mask(N_BLOCKS, (skipped,))]
    actual, expected = (
        {m: v for m, v, _ in Forward(model, 64).loglikelihoods(text_rows(5), masks)} for model in models
    )
    assert all(actual[mask] == pytest.approx(expected[mask], rel=1e-5) for mask in masks)
    logits = []
    for model in models:
        with torch.no_grad(), masked(model.module, masks[1]):
            logits.append(model.module(input_ids=torch.tensor([[5, 6, 7, 8]])).logits)
    assert torch.allclose(*logits, rtol=1e-5, atol=1e-5)
    assert reads[skipped] == 0
    assert all(reads[block] > 0 for block in kept)


def test_a_cell_on_disk_has_the_result_of_one_in_memory(launch: Command, tmp_path: Path) -> None:
    """Search, perplexity, accuracy and a task of lm-eval; the embeddings are on disk, too."""
    items = items_file(tmp_path / "items.jsonl", 6)
    cell = ("objective=margin", "algo=greedy", "k=2", "eval=local", f"eval.items={{q: {items}}}")
    whole = launch(*cell, f"paths.results={tmp_path / 'whole'}")
    assert whole.status == 0, whole.err
    ended = launch(*cell, "model.max_memory={cpu: 90000}", f"model.offload={tmp_path / 'disk'}")
    assert ended.status == 0, ended.err
    assert "is spread" in ended.err
    expected, actual = whole.result(), ended.result()
    assert actual["cell"] == expected["cell"]
    assert actual["mask"] == expected["mask"]
    assert actual["calibration"]["loss"] == pytest.approx(expected["calibration"]["loss"], rel=1e-5)
    assert actual["evaluation"]["pruned"] == pytest.approx(expected["evaluation"]["pruned"])
