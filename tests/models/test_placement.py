"""The devices of weights, and what a model's jobs request; neither is part of a cell's identity."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from transformers import LlamaConfig

from pruning.config.app import build_option, register
from pruning.config.compose import launcher_of
from pruning.config.groups import CONF, options
from pruning.core.errors import InputError
from pruning.launcher.slurm import Slurm
from pruning.models.handle import Model, Resources
from pruning.models.placement import device_options
from tests.conftest import Command

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


def placed(device_map: str = "auto") -> dict[str, Any]:
    return device_options("llama3", "bfloat16", device_map, LLAMA3)


def test_what_fits_one_device_goes_there_whole(machine: Any) -> None:
    for gpus, expected in (((30, 80), {"device_map": {"": 0}}), ((), {})):
        machine(*gpus)
        assert placed() == expected
    machine(80)
    assert placed("cpu") == {}


def test_what_does_not_fit_one_gpu_is_spread_over_several(machine: Any) -> None:
    machine(19, 19, 19)  # 11 GiB for weights each
    chosen = placed()["device_map"]
    assert set(chosen.values()) == {0, 1, 2}
    blocks = {name: device for name, device in chosen.items() if re.fullmatch(r"model\.layers\.\d+", name)}
    assert len(blocks) == 32  # no block is split
    assert list(blocks.values()) == sorted(blocks.values())


def test_what_fits_nowhere_is_refused_with_all_sizes_and_what_to_do(machine: Any) -> None:
    machine(12, 12.5)
    with pytest.raises(InputError) as refused:
        placed()
    text = str(refused.value)
    sizes = (" 16.06 GB", "GPU 0 4.29 GB, GPU 1 4.83 GB", "memory 61.8")
    for part in (*sizes, "bfloat16", "model.resources.gpus_per_rank", "model.dtype"):
        assert part in text
    machine(memory=10)
    with pytest.raises(InputError, match=r"memory 9\.66 GB"):
        placed()
    with pytest.raises(InputError, match=r"model\.device_map 'cude'"):
        Model("llama3", "hub", "meta-llama/Meta-Llama-3-8B", device_map="cude")


@pytest.fixture(autouse=True)
def hydra() -> None:
    GlobalHydra.instance().clear()
    register()


def test_every_model_has_possible_resources(tmp_path: Path) -> None:
    for name in options("model"):
        build_option("model", [f"model={name}", f"model.path={tmp_path}"]).resources.check(name)


def test_resources_are_not_part_of_a_cell(launch: Command) -> None:
    first = launch("k=1", "algo=one_shot").result()
    again = launch("k=1", "algo=one_shot", "model.resources.ranks=4", "model.resources.minutes=5")
    assert again.nothing_ran
    assert "resources" not in first["config"]["model"]
    assert "launcher" not in first["config"]
    model = Model("tiny", "hub", "nobody/nothing")
    assert model == replace(model, resources=Resources(nodes=9))


def test_the_gpus_of_a_node_are_those_of_its_ranks() -> None:
    assert Resources(nodes=3, ranks=2, gpus_per_rank=4).gpus == 8
    for name, value in {"nodes": 0, "memory_gb": 0, "minutes": 0, "gpus_per_rank": -1}.items():
        with pytest.raises(InputError, match=rf"tiny: model\.resources\.{name}={value} "):
            Resources(**{name: value}).check("tiny")


def test_a_command_has_one_launcher() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        two = [compose("config", ["launcher=slurm", f"launcher.parallel={n}"]) for n in (1, 2)]
    with pytest.raises(InputError, match=r"^launcher "):
        launcher_of(two)
    assert launcher_of(two[:1]) == Slurm(parallel=1)


def test_a_cluster_can_have_a_separate_file(tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "ours.yaml").write_text(
        "defaults: [slurm, _self_]\npartition: gpu\nsetup: [module load cuda]\n"
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = launcher_of(
            [compose("config", ["launcher=ours", f"hydra.searchpath=[file://{tmp_path}]"])]
        )
    assert launcher == Slurm(partition="gpu", setup=["module load cuda"])
