"""Figure 1 shows every draw of a search, or the share of the draws, over blocks and over sub-layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.data.load import load
from analysis.figures import fig1_masks
from pruning.core.mask import Mask
from tests.analysis.figures.test_figures import DRAWN, draw
from tests.helpers import analysis_grid, sublayer_grid
from tests.helpers.analysis_grid import frame
from tests.helpers.sublayer_grid import SublayerStudy


def cells(draws: int, algos: int = 2) -> pd.DataFrame:
    """Cells whose mask depends on the draw and on the search."""
    grid = frame(objectives=1, data=2, draws=draws, algos=algos)
    dropped = [(int(a[-1]), 10 + d, 20) for a, d in zip(grid["algo"], grid["draw"], strict=True)]
    return grid.assign(dropped=dropped, cell=[f"c{i}" for i in range(len(grid))])


def meshes(figure: Figure) -> list[np.ndarray]:
    drawn = [mesh for mesh in figure.axes[0].collections if isinstance(mesh, QuadMesh)]
    return [np.ma.getdata(mesh.get_array()) for mesh in drawn]


def keys(figure: Figure) -> dict[str, str]:
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return {t: to_hex(p.get_facecolor()) for t, p in zip(texts, legend.get_patches(), strict=True)}


def test_each_draw_is_a_line_in_the_order_of_data_and_seeds() -> None:
    grid = cells(draws=3)
    shuffled = grid.sample(frac=1, random_state=0)
    figure = fig1_masks.draw(shuffled, "t")
    for algo, lines in zip(("algo0", "algo1"), meshes(figure), strict=True):
        masks = grid.loc[grid["algo"] == algo, "dropped"]  # by data, then seed
        assert [tuple(np.flatnonzero(line)) for line in lines] == [tuple(mask) for mask in masks]
    assert list(keys(figure)) == ["removed", "kept"]


def test_very_many_draws_are_a_shade_with_a_key() -> None:
    figure = fig1_masks.draw(cells(draws=10), "t")
    (shares,) = meshes(figure)[0]
    assert (shares[0], shares[20], shares[1]) == (1.0, 1.0, 0.0)
    assert shares[10] == pytest.approx(0.1)
    shown = keys(figure)
    assert list(shown) == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert len(set(shown.values())) == 5


def test_the_number_of_draws_is_in_words() -> None:
    grid = cells(draws=3)
    assert fig1_masks.draw(grid, "t").axes[0].get_title(loc="left").endswith("3 blocks removed · 6 draws")
    twice = pd.concat([grid, grid.assign(seed=9)], ignore_index=True)
    assert fig1_masks.draws_of(twice) == "12 cells of 6 draws"
    assert fig1_masks.draws_of(grid[grid["draw"] == 0].query("calibration == 'text0'")) == "1 draw"


def test_searches_with_equal_masks_share_a_band() -> None:
    grid = cells(draws=2, algos=3)
    equal = grid.assign(dropped=[(1, 2, int(d)) for d in grid["draw"] + 5])
    assert fig1_masks.bands(equal) == {"all 3 searches": ["algo0", "algo1", "algo2"]}
    (lines,) = meshes(fig1_masks.draw(equal, "t"))
    assert [tuple(np.flatnonzero(line)) for line in lines] == [(1, 2, 5), (1, 2, 6)] * 2
    other = (equal["draw"] + (equal["algo"] == "algo1")) % 2
    swapped = equal.assign(dropped=[(1, 2, int(d)) for d in other + 5])
    assert len(fig1_masks.bands(swapped)) == 3  # the same masks, but in other draws
    unfinished = equal.assign(status=["failed", *equal["status"][1:]])
    assert list(fig1_masks.bands(unfinished)) == ["algo0 (3 of 4)", "algo1", "algo2"]


def test_colours_of_the_key_are_those_of_the_squares() -> None:
    shown = fig1_masks.key(False, ["#0072B2", "#D55E00"])
    assert [name.upper() for name in shown["kept"]] == [fig1_masks.BACK]
    assert [name.upper() for name in shown["removed"]] == ["#0072B2", "#D55E00"]
    shares = fig1_masks.key(True, ["#0072B2", "#D55E00"])
    assert shares["100 %"] == shown["removed"]
    assert len(shares["25 %"]) == 2


def test_the_key_shows_the_colour_of_every_objective() -> None:
    grid = cells(draws=2)
    figure = fig1_masks.draw(pd.concat([grid, grid.assign(objective="o1")], ignore_index=True), "t")
    first = [axes.collections[0] for axes in figure.axes]
    drawn = {to_hex(mesh.get_cmap()(1.0)) for mesh in first if isinstance(mesh, QuadMesh)}
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = {to_hex(box.get_facecolor()) for box in legend.findobj(Rectangle)}
    assert len(drawn) == 2
    assert drawn <= boxes


def test_an_objective_without_cells_of_a_size_leaves_its_place_empty() -> None:
    grid = cells(draws=2)
    more = grid.assign(objective="o1", k=2, dropped=[(1, 2)] * len(grid))
    figure = fig1_masks.draw(pd.concat([grid, more], ignore_index=True), "t")
    assert [axes.axison for axes in figure.axes] == [False, True, True, False]


# Sub-layers.

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


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_can_be_drawn_with_sublayers(
    name: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = draw(name, results, monkeypatch)
    assert "smollm2 (sublayer)" in {*drawn.get("model", ["smollm2 (sublayer)"])}


def test_the_csv_has_the_short_notation_and_no_mask_of_a_missing_cell(results: Path) -> None:
    whole = load(results)
    drawn = fig1_masks.table(whole)
    for (_, row), dropped in zip(whole.iterrows(), drawn["dropped"], strict=True):
        unit = "block" if row["unit"] == "block" else "sublayer"
        assert dropped == " ".join(Mask(30, row["dropped"], unit).names())
    assert drawn["dropped"].str.contains("m").any()
    lost = whole.assign(status=["missing", *whole["status"][1:]], dropped=[None, *whole["dropped"][1:]])
    assert list(fig1_masks.table(lost)["dropped"]) == ["", *drawn["dropped"][1:]]


@pytest.mark.parametrize(
    ("study", "heading", "above", "labels"),
    [
        (ONE, "smollm2 · perplexity · 10 % of the parameters removed · 1 draw", False, ["0", "2", "4"]),
        (
            SublayerStudy(units=("mlp",), algos=("greedy",), seeds=(0,)),
            "smollm2 · perplexity\n10 % of the parameters removed, only MLPs · 1 draw",
            True,
            ["0", "2", "4"],
        ),
        (
            SublayerStudy(**(ONE.__dict__ | {"models": ("deep",)})),
            "deep · perplexity · 10 % of the parameters removed · 1 draw",
            False,
            ["0", "4", "8"],
        ),
    ],
)
def test_attention_is_drawn_above_the_mlps_and_apart_if_it_cannot_be_removed(
    study: SublayerStudy, heading: str, above: bool, labels: list[str], tmp_path: Path
) -> None:
    sublayer_grid.write(tmp_path, study)
    found = load(tmp_path)
    axes = fig1_masks.draw(found, "title").axes[0]
    (mesh,) = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    halves = np.ma.masked_invalid(mesh.get_array()).reshape(2, int(found["n_blocks"][0]))
    removed = {2 * int(block) + int(kind) for kind, block in np.argwhere(halves.filled(0) == 1)}
    assert removed == set(found["dropped"][0])
    assert np.ma.getmaskarray(halves).all(axis=1).tolist() == [above, False]
    assert axes.get_title(loc="left") == heading
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == labels
