"""What a model's jobs request: set in the model's YAML, but not part of a cell's identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from pruning.config.app import register
from pruning.config.compose import launcher_of
from pruning.config.groups import CONF, options
from pruning.core.errors import InputError
from pruning.launcher.slurm import Slurm
from pruning.models.handle import Model, Resources
from tests.conftest import Command


@pytest.fixture(autouse=True)
def hydra() -> None:
    GlobalHydra.instance().clear()
    register()


@pytest.mark.parametrize("name", options("model"))
def test_every_model_has_resources(name: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = instantiate(
            compose("config", [f"model={name}", f"model.path={tmp_path}"]).model, _convert_="all"
        )
    assert isinstance(model.resources, Resources)
    model.resources.check(name)
    assert hash(model.resources)


def test_resources_are_not_part_of_a_cell(launch: Command) -> None:
    first = launch("k=1", "algo=one_shot").result()
    again = launch("k=1", "algo=one_shot", "model.resources.ranks=4", "model.resources.minutes=5")
    assert "every cell was done" in again.err
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
    with pytest.raises(InputError, match="launcher differs between cells"):
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
