"""What figures 1 to 8 and tables 2 and 3 draw: ties, scales, intervals, labels, counts and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from scipy.stats import gmean

from analysis.data.load import Metric, choose, done, load
from analysis.data.study import AskedStudy
from analysis.figures import (
    fig1_masks,
    fig2_ranks,
    fig3_variance,
    fig4_changes,
    fig5_variance_shares,
    fig6_asked,
    fig7_cost,
    fig8_stability,
    outcome_tables,
    style,
)
from analysis.stats.components import IntervalEstimate
from analysis.stats.estimands import SearchLine, changes
from analysis.stats.means import CellDraws, over_draws
from pruning.core.mask import Mask
from tests.helpers.analysis_grid import ONE, SUBLAYERS, frame, write


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
    write(folder, replace(ONE, objectives=("perplexity",), algos=("one_shot", "greedy"), seeds=(0, 1)))
    write(folder, SUBLAYERS)
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
    write(tmp_path, replace(SUBLAYERS, units=(unit,), algos=("greedy",), seeds=(0,)))
    found = load(tmp_path)
    axes = fig1_masks.draw(found).axes[0]
    (mesh,) = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    halves = np.asarray(mesh.get_array()).reshape(2, int(found["n_blocks"][0]))
    removed = {2 * int(block) + int(kind) for kind, block in np.argwhere(halves == 1)}
    assert removed == set(found["dropped"][0])


STUDY = replace(
    ONE,
    models=("gemma3_270m",),
    ratios=(0.1, 0.2),
    objectives=("perplexity", "divergence", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian", "beam"),
    seeds=(0, 1, 2),
    metrics=("ppl/wikitext2", "acc/piqa", "acc/boolq"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> AskedStudy:
    folder = tmp_path_factory.mktemp("results")
    write(folder, STUDY)
    return AskedStudy(folder, "small")


def texts(of: Axes | Figure) -> list[str]:
    return [text.get_text() for text in of.texts]


def title(axes: Axes) -> str:
    return "".join(axes.get_title(loc) for loc in ("left", "center"))


def note(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def points(axes: Axes) -> list[tuple[float, float]]:
    """The places of all markers that no line joins."""
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_linestyle() == "None"
        for x, y in zip(np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata()), strict=True)
    ]


def bars(axes: Axes, along: int = 0) -> list[tuple[float, float]]:
    """The ends of the intervals: along x or, with 1, along y."""
    lines = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    ends = [segment[:, along] for of in lines for segment in of.get_segments() if len(segment) == 2]
    return [(float(low), float(high)) for low, high in ends if not np.isnan([low, high]).any()]


def assert_equal(drawn: list[tuple[float, float]], rows: pd.DataFrame) -> None:
    """The bars are the intervals of the rows."""
    expected = [tuple(ends) for ends in rows[["low", "high"]].dropna().to_numpy(float)]
    np.testing.assert_allclose(sorted(drawn), sorted(expected), atol=1e-12)


# -- figure 2 ----------------------------------------------------------------------------------------------


def panel(rows: list[tuple[str, float, float]], objective: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["algo", "perplexity_rank", "accuracy_rank"])
    words = {"objective": objective, "model": "m", "k": 3, "note": ""}
    return table.assign(**words, spearman=-0.5)


def test_a_line_joins_the_ranks_of_a_search_and_ties_stand_in_a_band() -> None:
    tied = panel([("a", 1.5, 3.5), ("b", 1.5, 3.5), ("c", 3, 1), ("d", 4, 2)], "o")
    axes = fig2_ranks.draw(tied, ("ppl", "acc")).axes[0]
    is_band = [line.get_solid_capstyle() == "round" for line in axes.lines]
    bands = [line.get_xydata().tolist() for line, band in zip(axes.lines, is_band, strict=True) if band]
    assert bands == [[[0, 0], [0, 1]], [[1, 2], [1, 3]]]
    joined = [list(line.get_ydata()) for line, band in zip(axes.lines, is_band, strict=True) if not band]
    assert joined == [[0, 2], [1, 3], [2, 0], [3, 1]]
    assert texts(axes)[:4] == ["a", "b", "c", "d"]
    assert title(axes).endswith("ρ −0.50")  # noqa: RUF001


def test_panels_with_a_constant_ranking_are_not_drawn_and_the_note_names_them() -> None:
    flat = panel([("a", 1.5, 1), ("b", 1.5, 2)], "flat")
    drawn = fig2_ranks.draw(pd.concat([panel([("a", 1, 1), ("b", 2, 2)], "o"), flat]), ("ppl", "acc"))
    assert len(drawn.axes) == 1
    assert note(drawn).endswith(": flat")
    nothing = fig2_ranks.draw(flat, ("ppl", "acc"))
    assert not nothing.axes[0].axison


# -- figure 3 ----------------------------------------------------------------------------------------------


def spread(study: AskedStudy) -> tuple[pd.DataFrame, Figure]:
    metrics = {"perplexity": choose(study.frame, "ppl"), "accuracy": choose(study.frame, "acc")}
    rows = fig3_variance.spread(study.frame, metrics)
    return rows, fig3_variance.draw(rows, metrics)


def test_every_search_has_its_interval_in_the_panel_of_its_stratum_and_outcome(study: AskedStudy) -> None:
    rows, figure = spread(study)
    grid = np.array(figure.axes).reshape(2, 2)
    for line, outcome in zip(grid, fig3_variance.OUTCOMES, strict=True):
        for axes, k in zip(line, sorted(set(rows["k"])), strict=True):
            of_panel = rows[(rows["outcome"] == outcome) & (rows["k"] == k)]
            assert_equal(bars(axes), of_panel)
            assert {x for x, _ in points(axes)} == set(of_panel["mean"])
            sds = of_panel[of_panel["distinct"] > 1].drop_duplicates("objective")["sd"]
            shown = sds.map(style.number)
            words = {f"SD {style.TIMES if outcome == 'perplexity' else ''}{sd}" for sd in shown}
            assert {*texts(axes)} - {"all equal"} == words
    assert [axes.get_xscale() for axes in grid.flat] == ["log"] * 2 + ["linear"] * 2


def test_perplexities_are_averaged_geometrically(study: AskedStudy) -> None:
    rows, _ = spread(study)
    cells = done(study.frame).query("objective == 'margin' and k == 4 and algo == 'greedy'")
    values = cells["pruned/ppl/wikitext2"].astype(float)
    same = rows.query("outcome == 'perplexity' and objective == 'margin' and k == 4")
    row = same[same["algo"] == "greedy"].iloc[0]
    logs = over_draws(np.log(values), CellDraws.of(cells))
    assert (row["mean"], row["value"]) == pytest.approx((gmean(values), values.mean()))
    assert (row["low"], row["high"]) == pytest.approx((np.exp(logs.low), np.exp(logs.high)))
    assert row["sd"] == pytest.approx(np.exp(np.std(np.log(same["mean"]))))


# -- figure 4 ----------------------------------------------------------------------------------------------


def test_each_change_has_its_mean_interval_draws_and_chance() -> None:
    cells = frame(objectives=3, data=2, draws=3, algos=2)
    items = cells["objective"] == "o2"
    number = cells["draw"] + 3 * (cells["calibration"] == "text1") + 6 * items + (cells["algo"] == "algo1")
    cells["calibration"] = cells["calibration"].where(~items, "items" + cells["calibration"])
    found = changes(cells.assign(n_blocks=60, dropped=[(3 * n, 3 * n + 1, 3 * n + 2) for n in number]))
    (axes,) = fig4_changes.draw(found).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[3:] == ["o0", "o1", "o2"] * 2 + ["o0 : o1", "o2 : o0 or o1"]
    each = {value for one in found for value in one.each}
    assert {x for x, _ in points(axes)} == {one.changed.mean for one in found} | each
    assert_equal(bars(axes), pd.DataFrame([vars(one.changed) for one in found]))
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == [one.chance for one in found]


# -- figure 5 ----------------------------------------------------------------------------------------------


def test_a_forest_plot_has_a_line_at_1_intervals_and_arrows_where_they_go_on() -> None:
    bounded, above = IntervalEstimate(2.5, 2.0, 3.5), IntervalEstimate(float("nan"), 45.6, np.inf)
    axes = fig5_variance_shares.draw({"masks": {"a": bounded, "b": above}, "loss": {}}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["masks", "loss", "a", "b", "no ratio"]
    assert 1.0 in [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    assert bars(axes) == [(2.0, 3.5), (45.6, fig5_variance_shares.MOST)]
    assert {"2.50 (2.00 to 3.50)", "above 45.6"} <= set(texts(axes))
    arrows = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == ">"]
    assert arrows == [fig5_variance_shares.MOST]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (IntervalEstimate(2.5, 2.0, 3.5), "2.50 (2.00 to 3.50)"),
        (IntervalEstimate(9.0), "9.00"),
        (IntervalEstimate(float("nan"), 45.6, np.inf), "above 45.6"),
        (IntervalEstimate(float("nan"), np.inf, np.inf), "no ratio"),  # all searches find the same masks
        (IntervalEstimate(float("nan"), 8.8e44, np.inf), "no ratio"),  # a rounded share
        (IntervalEstimate(1e14, 45.0, 1e16), "above 45.0"),  # the upper end is a share of 0, rounded
        (IntervalEstimate(37.0, 1.0, np.inf), "at least 1"),  # an end at 1 does not leave it out
    ],
)
def test_no_ratio_is_infinite(ratio: IntervalEstimate, text: str) -> None:
    assert fig5_variance_shares.ratio_text(ratio) == text


# -- figure 6 ----------------------------------------------------------------------------------------------


def search_line(objective: str, draw: int, over: Sequence[float], gained: Sequence[float]) -> SearchLine:
    searches = ("one_shot", "greedy", "beam")[: len(over)]
    return SearchLine("m", 3, objective, "text", draw, searches, tuple(gained), tuple(over))


def test_each_draw_is_joined_from_one_shot_to_its_lowest_own_loss() -> None:
    falls = search_line("perplexity", 0, [1.0, 0.7, 0.5], [0.0, 0.1, 0.2])
    rises = [search_line("margin", draw, [1.0, 3.0], [0.0, 0.5 + draw]) for draw in (0, 1)]
    none = search_line("divergence", 0, [1.0, 1.0], [0.0, 0.0])
    figure = fig6_asked.draw([falls, *rises, none], "mean perplexity")
    every, *own = figure.axes
    assert len(own) == 2, "an objective without a gain has no panel"
    assert "divergence" in note(figure)
    for axes, lines in zip(own, ([falls], rises), strict=True):
        thin, thick = (line.get_xydata()[~np.isnan(line.get_xdata())] for line in axes.lines)
        through = [point for line in lines for point in zip(line.gained, np.exp(line.over), strict=True)]
        np.testing.assert_allclose(thin, through)
        ends = [point for line in lines for point in ((0.0, np.e), (line.gained[-1], np.exp(line.over[-1])))]
        np.testing.assert_allclose(thick, ends)
    assert sum(len(axes.lines) for axes in own) == len(every.lines)
    assert [axes.get_yscale() for axes in figure.axes] == ["log"] * 3


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        ([([0.0, 0.5], [0.0, 1.0])] * 2 + [([0.0, -1.0], [0.0, 1.0])], "×1.65, higher in 2 of 3"),  # noqa: RUF001
        ([([0.0, -0.5], [0.0, 1.0])], "×0.61, lower in 1 of 1"),  # noqa: RUF001
        ([([0.0, 0.5], [-1.0, 0.0])], "no gain in own loss"),
        ([], "not run"),
    ],
)
def test_the_verdict_counts_draws_in_which_a_harder_search_is_better_held_out(
    lines: Sequence[tuple[list[float], list[float]]], verdict: str
) -> None:
    assert fig6_asked.verdict([search_line("o", i, *line) for i, line in enumerate(lines)]) == verdict


# -- figures 7 and 8 ---------------------------------------------------------------------------------------


def test_the_ends_of_searches_are_in_percent_of_the_worst(study: AskedStudy) -> None:
    ends = fig7_cost.measure(study.frame, study.journals.traces, study.journals.lines)
    axes = fig7_cost.draw(ends).axes[0]
    chosen = ends[ends["k"] == ends["k"].min()]
    worst = chosen.groupby("objective")["excess"].transform("max")
    chosen, worst = chosen[worst > 0], worst[worst > 0]
    drawn = [line.get_xydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    expected = zip(chosen["scores"], 100 * chosen["excess"] / worst, strict=True)
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(expected))
    assert_equal(bars(axes, 1), 100 * chosen[["low", "high"]].div(worst, axis=0))
    filled = [line.get_markerfacecolor() != "white" for line in axes.lines if len(line.get_xdata()) == 1]
    assert sum(filled) == chosen["front_scores"].sum()
    assert (ends["low"].dropna() >= 0).all()


def test_figure_8_is_in_percent_with_intervals(study: AskedStudy) -> None:
    rows, curves = fig8_stability.measure(study.frame, study.journals.traces)
    figure = fig8_stability.draw(rows, curves)
    above, below = figure.axes[0], figure.axes[2]
    chosen = rows[(rows["objective"] == "divergence") & (rows["algo"] == "greedy") & (rows["k"] == 2)]
    mean = over_draws(100 * chosen["other_mask"].astype(float), CellDraws.of(chosen))
    assert any(x == pytest.approx(mean.mean) for x, _ in points(above))
    assert any(bar == pytest.approx(tuple(np.clip([mean.low, mean.high], 0, 100))) for bar in bars(above))
    assert len(points(above)) == 15
    same = curves[(curves["objective"] == "margin") & (curves["k"] == 2) & (curves["n"] == 1)]
    agreed = over_draws(100 * same["pair"], CellDraws.of(same))
    assert any(y == pytest.approx(agreed.mean) for _, y in points(below))


# -- tables ------------------------------------------------------------------------------------------------


def test_table_2_has_geometric_means_with_a_factor(study: AskedStudy) -> None:
    metric = Metric("ppl", ("ppl/wikitext2",))
    broken = study.frame.copy()
    cell = broken.query("objective == 'margin' and k == 4 and algo == 'greedy'").index
    broken.loc[cell, "pruned/ppl/wikitext2"] = [1e2, 1e4, 1e12]
    rows = outcome_tables.aggregate(broken, metric)
    row = rows.query("objective == 'margin' and k == 4 and algo == 'greedy'").iloc[0]
    assert row["geometric"] == pytest.approx(1e6)
    assert row["factor"] == pytest.approx(np.exp(np.std(np.log([1e2, 1e4, 1e12]), ddof=1)))
    shown = outcome_tables.typeset(rows, metric).axes[0]
    assert not [text for text in texts(shown) if "±" in text]
    assert any("geometric mean" in text and "n = 3 to 6 cells" in text for text in texts(shown))


def test_table_3_prints_what_a_search_costs_alone(study: AskedStudy) -> None:
    rows = outcome_tables.search_means(study.frame, study.journals.lines)
    assert {"scores asked", "seconds", "scores paid"} <= set(
        texts(outcome_tables.typeset_search(rows).axes[0])
    )
    assert study.frame["seconds"].astype(float).mean() != pytest.approx(rows["seconds_alone"].mean())
    ends = fig7_cost.measure(study.frame, study.journals.traces, study.journals.lines)
    costs = rows.set_index(["k", "algo"])
    for of, own in ends.groupby(["k", "algo"]):
        for cost, column in {"seconds": "seconds_alone", "scores": "asked"}.items():
            assert np.average(own[cost], weights=own["cells"]) == pytest.approx(costs.loc[of, column])
