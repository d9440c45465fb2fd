"""Figure 1 shows every draw of a search, or the share of the draws, and says what the shades mean."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures import fig1_masks
from tests.helpers.analysis_grid import frame


def cells(draws: int, algos: int = 2) -> pd.DataFrame:
    """Cells whose mask depends on the draw and on the search."""
    grid = frame(objectives=1, data=2, draws=draws, algos=algos)
    dropped = [(int(a[-1]), 10 + d, 20) for a, d in zip(grid["algo"], grid["draw"], strict=True)]
    return grid.assign(dropped=dropped, cell=[f"c{i}" for i in range(len(grid))])


def meshes(figure: Figure) -> list[np.ndarray]:
    axes = figure.axes[0]
    drawn = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    return [np.ma.getdata(mesh.get_array()) for mesh in drawn]


def keys(figure: Figure) -> dict[str, str]:
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return {t: to_hex(p.get_facecolor()) for t, p in zip(texts, legend.get_patches(), strict=True)}


def test_each_draw_is_a_line_in_the_order_of_data_and_seeds() -> None:
    grid = cells(draws=3)
    shuffled = grid.sample(frac=1, random_state=0)
    for algo, lines in zip(("algo0", "algo1"), meshes(fig1_masks.draw(shuffled, "t")), strict=True):
        masks = grid.loc[grid["algo"] == algo, "dropped"]  # by data, then seed
        assert [tuple(np.flatnonzero(line)) for line in lines] == [tuple(mask) for mask in masks]


def test_very_many_draws_are_a_shade_with_a_key() -> None:
    grid = cells(draws=10)
    figure = fig1_masks.draw(grid, "t")
    (shares,) = meshes(figure)[0]
    assert (shares[0], shares[20], shares[1]) == (1.0, 1.0, 0.0)
    assert shares[10] == pytest.approx(0.1)
    shown = keys(figure)
    assert list(shown) == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert len(set(shown.values())) == 5
    assert "share of the draws" in figure.legends[0].get_title().get_text()


def test_the_key_of_lines_names_both_colours() -> None:
    assert list(keys(fig1_masks.draw(cells(draws=2), "t"))) == ["removed", "kept"]


def test_the_number_of_draws_is_in_words() -> None:
    grid = cells(draws=3)
    assert fig1_masks.draw(grid, "t").axes[0].get_title(loc="left").endswith("3 blocks removed · 6 draws")
    twice = pd.concat([grid, grid.assign(seed=9)], ignore_index=True)
    assert fig1_masks.draws_of(twice) == "12 cells of 6 draws"
    assert fig1_masks.draws_of(grid[grid["draw"] == 0].query("calibration == 'text0'")) == "1 draw"


def test_a_search_that_is_not_finished_says_so_in_its_label() -> None:
    grid = cells(draws=3)
    lost = grid.assign(status=["missing", *grid["status"][1:]])
    assert list(fig1_masks.bands(lost)) == ["algo0 (5 of 6)", "algo1"]


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
    assert len(fig1_masks.bands(unfinished)) == 3


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
    drawn = {
        to_hex(axes.collections[0].get_cmap()(1.0))
        for axes in figure.axes
        if isinstance(axes.collections[0], QuadMesh)
    }
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = {to_hex(box.get_facecolor()) for box in legend.findobj(Rectangle)}
    assert len(drawn) == 2
    assert drawn <= boxes
    assert "each objective has its own colour" in legend.get_title().get_text()


def test_an_objective_without_cells_of_a_size_leaves_its_place_empty() -> None:
    grid = cells(draws=2)
    more = grid.assign(objective="o1", k=2, dropped=[(1, 2)] * len(grid))
    figure = fig1_masks.draw(pd.concat([grid, more], ignore_index=True), "t")
    assert [axes.axison for axes in figure.axes] == [False, True, True, False]
