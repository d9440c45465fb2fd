"""Figure 1 shows every draw of a search, or the share of the draws, over blocks and over sub-layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from analysis.data.load import load
from analysis.figures import fig1_masks, style
from pruning.core.mask import Mask
from tests.helpers import analysis_grid
from tests.helpers.analysis_grid import SUBLAYERS, frame


def cells(draws: int, algos: int = 2) -> pd.DataFrame:
    """Cells whose mask depends on the draw and on the search."""
    grid = frame(objectives=1, data=2, draws=draws, algos=algos)
    dropped = [(int(a[-1]), 10 + d, 20) for a, d in zip(grid["algo"], grid["draw"], strict=True)]
    return grid.assign(dropped=dropped, cell=[f"c{i}" for i in range(len(grid))])


def meshes(figure: Figure) -> list[np.ndarray]:
    drawn = [mesh for mesh in figure.axes[0].collections if isinstance(mesh, QuadMesh)]
    return [np.ma.getdata(mesh.get_array()) for mesh in drawn]


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_the_shade_of_a_block_is_the_share_of_the_draws_that_remove_it() -> None:
    figure = fig1_masks.draw(cells(draws=10))
    for algo, (shares,) in enumerate(meshes(figure)):
        expected = {algo: 1.0, 20: 1.0} | dict.fromkeys(range(10, 20), 0.1)
        assert {block: shares[block] for block in np.flatnonzero(shares)} == pytest.approx(expected)
    assert "20 cells" in figure.get_supxlabel()


def test_searches_with_equal_masks_in_equal_draws_share_a_line() -> None:
    grid = cells(draws=2, algos=3)
    equal = grid.assign(dropped=[(1, 2, int(d)) for d in grid["draw"] + 5])
    assert names(fig1_masks.draw(equal)) == ["o0", style.EVERY]
    other = (equal["draw"] + (equal["algo"] == "algo1")) % 2
    swapped = equal.assign(dropped=[(1, 2, int(d)) for d in other + 5])
    assert len(names(fig1_masks.draw(swapped))) == 4  # the same masks, but in other draws
    unfinished = equal.assign(status=["failed", *equal["status"][1:]])
    figure = fig1_masks.draw(unfinished)
    assert names(figure) == ["o0", "algo0", "algo1", "algo2"]
    assert "3 of 4 cells finished" in [text.get_text() for text in figure.axes[0].texts]


def test_a_page_has_room_for_a_large_study() -> None:
    grid = frame(objectives=4, data=1, draws=2, algos=8, ks=range(2, 6))
    drawn = [tuple(range(int(a[4:]), int(a[4:]) + k)) for a, k in zip(grid["algo"], grid["k"], strict=True)]
    figure = fig1_masks.draw(grid.assign(dropped=drawn))
    assert figure.get_figheight() <= style.TALL + 1
    assert len(names(figure)) == 4 + 4 * 8


# Sub-layers.


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of blocks, of sub-layers and of attention in one folder."""
    folder = tmp_path_factory.mktemp("results")
    blocks = analysis_grid.Study(
        models=("smollm2",), ratios=(0.1,), objectives=("perplexity",), metrics=("ppl/heldout", "acc/heldout"),
        algos=("one_shot", "greedy"), seeds=(0, 1), lost=0, broken=0,
    )  # fmt: skip
    analysis_grid.write(folder, blocks)
    analysis_grid.write(folder, SUBLAYERS)
    return folder


def test_the_csv_has_the_short_notation_and_no_mask_of_a_missing_cell(results: Path) -> None:
    whole = load(results)
    drawn = fig1_masks.table(whole)
    for (_, row), dropped in zip(whole.iterrows(), drawn["dropped"], strict=True):
        unit = "block" if row["unit"] == "block" else "sublayer"
        assert dropped == " ".join(Mask(30, row["dropped"], unit).names())
    assert drawn["dropped"].str.contains("m").any()
    lost = whole.assign(status=["missing", *whole["status"][1:]], dropped=[None, *whole["dropped"][1:]])
    assert list(fig1_masks.table(lost)["dropped"]) == ["", *drawn["dropped"][1:]]


@pytest.mark.parametrize("unit", ["sublayer", "mlp"])
def test_attention_is_drawn_above_the_mlps(unit: str, tmp_path: Path) -> None:
    analysis_grid.write(tmp_path, replace(SUBLAYERS, units=(unit,), algos=("greedy",), seeds=(0,)))
    found = load(tmp_path)
    axes = fig1_masks.draw(found).axes[0]
    (mesh,) = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    halves = np.asarray(mesh.get_array()).reshape(2, int(found["n_blocks"][0]))
    removed = {2 * int(block) + int(kind) for kind, block in np.argwhere(halves == 1)}
    assert removed == set(found["dropped"][0])
