"""The experiments of `conf/experiment`: every value of a grid exists, and the values of each cell fit together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from pruning.config import app, groups
from pruning.config.compose import cell_of
from pruning.runs.cell import Cell
from pruning.runs.prepare import check_cell
from tests.helpers.evaluations import items_file


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    app.register()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        yield


def axes(experiment: str) -> dict[str, list[str]]:
    """The axes of a grid: each setting, with its values; an experiment of one cell has none."""
    loaded = OmegaConf.load(groups.CONF / "experiment" / f"{experiment}.yaml")
    params = OmegaConf.select(loaded, "hydra.sweeper.params") or {}
    return {str(name): str(values).split(",") for name, values in params.items()}


def cell(*words: str) -> Cell:
    """A cell, composed as the launcher composes it."""
    composed = compose("config", [*words], return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_readonly(composed, False)
    with open_dict(composed):
        del composed["hydra"]
    return cell_of(composed, choices)


@pytest.mark.parametrize(
    "experiment", sorted(path.stem for path in Path(groups.CONF, "experiment").glob("*.yaml"))
)
def test_every_cell_of_a_grid_is_valid(experiment: str, tmp_path: Path) -> None:
    grid = axes(experiment)
    # Algorithms and seeds fit every cell; only a model, an objective and a calibration may not fit together.
    fixed = [f"{name}={values[0]}" for name, values in grid.items() if name in ("algo", "seed", "ratio", "k")]
    if "items_file" in grid.get("calibration", ()):
        fixed.append(f"calibration.path={items_file(tmp_path / 'items.jsonl')}")
    varied = [[f"{n}={v}" for v in grid[n]] for n in ("model", "objective", "calibration") if n in grid]
    for chosen in product(*varied):
        check_cell(cell(f"experiment={experiment}", f"paths.results={tmp_path}", *fixed, *chosen))
    for name, values in grid.items():
        if name in groups.GROUPS:
            assert set(values) <= set(groups.options(name))


def test_compress_is_one_cell_that_every_setting_can_change() -> None:
    plain = cell("experiment=compress")
    assert (plain.command.study, plain.ratio, plain.unit, plain.heal.source) == (
        "compress",
        0.2,
        "block",
        "embedded",
    )
    assert (plain.calibration.samples, plain.evaluation.texts) == (64, ["wikipedia_sample", "novel"])
    words = ("unit=sublayer", "heal=none", "eval=heldout", "calibration=pydoc", "compensation=none", "k=3")
    changed = cell("experiment=compress", *words)
    assert (changed.unit, changed.heal.trains, changed.k, changed.ratio) == ("sublayer", False, 3, None)
    assert changed.evaluation.texts is None
