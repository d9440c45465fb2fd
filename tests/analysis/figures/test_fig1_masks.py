"""Figure 1 and the other figures of masks over sub-layers."""

from __future__ import annotations

import sys
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh

from analysis.__main__ import COMMANDS
from analysis.data.load import load
from analysis.figures import fig1_masks
from pruning.core.mask import Mask
from tests.analysis.figures.test_figures import MODULES
from tests.helpers import analysis_grid, sublayer_grid
from tests.helpers.sublayer_grid import SublayerStudy

ONE = SublayerStudy(units=("sublayer",), algos=("greedy",), seeds=(0,))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of blocks, of sub-layers and of attention in one folder."""
    folder = tmp_path_factory.mktemp("results")
    blocks = analysis_grid.Study(
        models=("smollm2",), ratios=(0.1,), objectives=("perplexity",), metrics=("ppl/heldout", "acc/heldout"),
        algos=("one_shot", "greedy"), seeds=(0, 1), lost=0, broken=0,
    )  # fmt: skip
    analysis_grid.write(folder, blocks)
    sublayer_grid.write(folder, SublayerStudy())
    return folder


@pytest.mark.parametrize("module", MODULES)
def test_every_figure_can_be_drawn_with_sublayers(
    module: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--results", str(results), "--out", str(tmp_path)])
    resolve_name(f"analysis.{COMMANDS[module.partition('_')[0]]}")()
    drawn = pd.read_csv(tmp_path / f"{module}.csv")
    named = drawn.get("model", pd.Series(["smollm2 (sublayer)"]))
    assert {*named} >= {"smollm2 (sublayer)"}


def test_the_csv_has_the_short_notation(results: Path) -> None:
    frame = load(results)
    drawn = fig1_masks.table(frame)
    for (_, row), dropped in zip(frame.iterrows(), drawn["dropped"], strict=True):
        unit = "block" if row["unit"] == "block" else "sublayer"
        assert dropped == " ".join(Mask(30, row["dropped"], unit).names())
    assert drawn["dropped"].str.contains("m").any()


def test_a_missing_cell_has_no_mask_in_the_csv(results: Path) -> None:
    frame = load(results)
    lost = frame.assign(status=["missing", *frame["status"][1:]], dropped=[None, *frame["dropped"][1:]])
    assert list(fig1_masks.table(lost)["dropped"]) == ["", *fig1_masks.table(frame)["dropped"][1:]]


def squares(folder: Path) -> tuple[list[QuadMesh], str, list[str]]:
    """The rows of squares of the only panel, its heading, and the numbers of blocks below it."""
    axes = fig1_masks.draw(load(folder), "title").axes[0]
    meshes = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return meshes, axes.get_title(loc="left"), [label.get_text() for label in axes.get_xticklabels()]


def test_attention_is_drawn_above_the_mlps(tmp_path: Path) -> None:
    sublayer_grid.write(tmp_path, ONE)
    dropped = load(tmp_path)["dropped"][0]
    (mesh,), heading, _ = squares(tmp_path)
    halves = np.ma.getdata(mesh.get_array()).reshape(2, 30)
    assert {2 * int(block) + int(kind) for kind, block in np.argwhere(halves == 1)} == set(dropped)
    assert heading == "smollm2 · perplexity · 10 % of the parameters removed · 1 draw"


def test_what_cannot_be_removed_is_drawn_apart(tmp_path: Path) -> None:
    sublayer_grid.write(tmp_path, SublayerStudy(units=("mlp",), algos=("greedy",), seeds=(0,)))
    (mesh,), heading, _ = squares(tmp_path)
    assert np.ma.getmaskarray(mesh.get_array()).reshape(2, 30).all(axis=1).tolist() == [True, False]
    assert heading == "smollm2 · perplexity\n10 % of the parameters removed, only MLPs · 1 draw"


def test_deep_models_have_fewer_numbers_at_the_axis(tmp_path: Path) -> None:
    sublayer_grid.write(tmp_path, SublayerStudy(**(ONE.__dict__ | {"models": ("deep",)})))
    assert squares(tmp_path)[2][:3] == ["0", "4", "8"]
