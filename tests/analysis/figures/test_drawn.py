"""What figures 2 to 8 and tables 2 and 3 draw: ties, scales, intervals, labels, counts and keys."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from scipy.stats import gmean

from analysis.data.load import Metric, choose, done
from analysis.data.study import AskedStudy
from analysis.figures import (
    fig2_ranks,
    fig3_variance,
    fig4_overlap,
    fig5_variance_shares,
    fig6_crossed,
    fig7_cost,
    fig8_stability,
    outcome_tables,
    style,
)
from analysis.stats.components import IntervalEstimate, Shares
from analysis.stats.grid import at
from analysis.stats.means import CellDraws, means, over_draws
from tests.helpers.analysis_grid import Study, frame, write

STUDY = Study(
    models=("gemma3_270m",),
    ratios=(0.1, 0.2),
    objectives=("perplexity", "divergence", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian", "beam"),
    metrics=("ppl/wikitext2", "acc/piqa", "acc/boolq"),
    lost=0,
    broken=0,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> AskedStudy:
    folder = tmp_path_factory.mktemp("results")
    write(folder, STUDY)
    return AskedStudy(folder, "small")


def texts(of: Axes | Figure) -> list[str]:
    return [text.get_text() for text in of.texts]


def keys(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def note(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", "; ")


def points(axes: Axes) -> list[tuple[float, float]]:
    """The places of the markers, without lines."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", "")
    ]


def bars(axes: Axes, vertical: bool) -> list[tuple[float, float]]:
    """The ends of the intervals: lines between two points at one place."""
    found = []
    for line in axes.lines:
        along, across = (np.asarray(line.get_ydata()), np.asarray(line.get_xdata()))[:: 1 if vertical else -1]
        if len(along) == 2 and across[0] == across[1] and not np.isnan(along).any():
            found.append((float(along[0]), float(along[1])))
    return found


def assert_equal(drawn: list[tuple[float, float]], rows: pd.DataFrame) -> None:
    """The bars are the intervals of the rows."""
    expected = [tuple(ends) for ends in rows[["low", "high"]].dropna().to_numpy(float)]
    np.testing.assert_allclose(sorted(drawn), sorted(expected), atol=1e-12)


# -- figure 2 ----------------------------------------------------------------------------------------------


def panel(rows: list[tuple[str, float, float]], objective: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["algo", "perplexity_rank", "accuracy_rank"])
    numbers = {"k": 3, "cells": 4, "draws": 4, "searches": len(rows), "distinct": 3, "distinct_masks": 9}
    words = {"objective": objective, "model": "m", "note": "", "draws_note": ""}
    return table.assign(**numbers, **words, spearman=0.5, q=0.2, low=-0.1, high=0.9)


def test_searches_that_tie_stand_in_one_band_around_their_rank() -> None:
    tied = panel([("a", 1.5, 3.5), ("b", 1.5, 3.5), ("c", 3, 1), ("d", 4, 2)], "o")
    axes = fig2_ranks.draw(tied, "t", ("ppl", "acc")).axes[0]
    (band,) = [line for line in axes.lines if line.get_solid_capstyle() == "round"]
    assert np.mean(band.get_xdata()) == 1.5
    assert set(band.get_ydata()) == {3.5}
    at = [place for place in points(axes) if place[1] == 3.5]
    assert len(at) == 2
    assert {min(band.get_xdata()), max(band.get_xdata())} == {x for x, _ in at}
    assert {(3.0, 1.0), (4.0, 2.0)} <= set(points(axes))


def test_panels_with_a_constant_ranking_are_not_drawn_and_the_note_names_them() -> None:
    flat = panel([("a", 1.5, 1), ("b", 1.5, 2)], "flat")
    drawn = fig2_ranks.draw(pd.concat([panel([("a", 1, 1), ("b", 2, 2)], "o"), flat]), "t", ("ppl", "acc"))
    assert len(drawn.axes) == 1
    assert note(drawn).endswith("not drawn, because a ranking has only ties: flat")
    nothing = fig2_ranks.draw(flat, "t", ("ppl", "acc"))
    assert texts(nothing.axes[0]) == ["no two rankings to compare"]


def test_the_counts_of_searches_draws_and_distinct_masks_are_printed(study: AskedStudy) -> None:
    both = choose(study.frame, "ppl"), choose(study.frame, "acc")
    ranked, _ = fig2_ranks.comparable(fig2_ranks.ranks(study.frame, *both))
    rows = ranked[(ranked["objective"] == ranked["objective"].iloc[0]) & (ranked["k"] == ranked["k"].iloc[0])]
    cells = done(study.frame)
    cells = cells[(cells["objective"] == rows["objective"].iloc[0]) & (cells["k"] == rows["k"].iloc[0])]
    masks, draws = cells["dropped"].nunique(), len(set(CellDraws.of(cells).draw))
    assert masks < len(cells)
    distinct = means(cells.assign(x=1.0), ["x"])["masks"].nunique()
    title = fig2_ranks.draw(rows, "t", ("ppl", "acc")).axes[0].get_title(loc="left")
    assert title.splitlines()[-2:] == [
        f"n = 5 searches, {distinct} distinct",
        f"{draws} draws, {masks} distinct masks",
    ]


# -- figure 3 ----------------------------------------------------------------------------------------------


def spread(study: AskedStudy) -> tuple[pd.DataFrame, Figure]:
    metrics = {"perplexity": choose(study.frame, "ppl"), "accuracy": choose(study.frame, "acc")}
    rows = fig3_variance.spread(study.frame, metrics)
    return rows, fig3_variance.draw(study.frame, rows, "t", metrics)


def test_panels_of_a_row_have_one_scale_and_every_search_its_interval(study: AskedStudy) -> None:
    rows, figure = spread(study)
    grid = np.array(figure.axes).reshape(2, 3)
    for line, outcome in zip(grid, fig3_variance.OUTCOMES, strict=True):
        assert len({axes.get_ylim() for axes in line}) == 1
        low, high = line[0].get_ylim()
        of_row = rows[rows["outcome"] == outcome]
        assert (of_row["low"] >= low).all()
        assert (of_row["high"] <= high).all()
        drawn = [bar for axes in line for bar in bars(axes, vertical=True)]
        assert_equal(drawn, of_row)
    assert [axes.get_yscale() for axes in grid[1]] == ["log"] * 3
    assert "95 % interval" in keys(figure)


def test_perplexities_are_averaged_geometrically(study: AskedStudy) -> None:
    rows, _ = spread(study)
    cells = done(study.frame).query("objective == 'margin' and k == 4 and algo == 'greedy'")
    values = cells["pruned/ppl/wikitext2"].astype(float)
    row = rows.query(
        "outcome == 'perplexity' and objective == 'margin' and k == 4 and algo == 'greedy'"
    ).iloc[0]
    logs = over_draws(np.log(values), CellDraws.of(cells))
    assert (row["mean"], row["value"]) == pytest.approx((gmean(values), values.mean()))
    assert (row["low"], row["high"]) == pytest.approx((np.exp(logs.low), np.exp(logs.high)))
    same = rows.query("outcome == 'perplexity' and objective == 'margin' and k == 4")
    assert row["sd"] == pytest.approx(np.exp(np.std(np.log(same["mean"]))))


# -- figure 4 ----------------------------------------------------------------------------------------------


def overlapping() -> pd.DataFrame:
    """Two objectives on the same texts and one on items. The masks depend on data and draw only."""
    cells = frame(objectives=3, data=2, draws=3, algos=2)
    items = cells["objective"] == "o2"
    number = cells["draw"] + 3 * (cells["calibration"] == "text1") + 6 * items
    cells["calibration"] = cells["calibration"].where(~items, "items" + cells["calibration"])
    return cells.assign(n_blocks=60, dropped=[(3 * n, 3 * n + 1, 3 * n + 2) for n in number])


def test_the_heat_map_pairs_masks_of_the_same_samples() -> None:
    heats = fig4_overlap.heat(overlapping()).set_index(["objective_a", "algo_a", "objective_b", "algo_b"])
    texts_both = heats.loc["o0", "algo0", "o1", "algo1"]
    # Every mask is that of its samples: equal on the same samples, apart on any others, also of the same seed.
    assert (texts_both["corrected"], texts_both["pairs"]) == (1.0, 6)
    other = heats.loc["o0", "algo0", "o2", "algo0"]
    assert (other["pairs"], other["paired"]) == (36, fig4_overlap.APART)
    diagonal = heats.loc["o0", "algo0", "o0", "algo0"]
    assert (diagonal["pairs"], diagonal["paired"]) == (6, fig4_overlap.BETWEEN)  # 3 draws of each data
    assert diagonal["corrected"] < 0


def test_columns_and_rows_of_the_heat_map_name_searches_and_objectives() -> None:
    heats, pairs = fig4_overlap.heat(overlapping()), fig4_overlap.comparisons(overlapping())
    figure = fig4_overlap.draw(heats, pairs, "t")
    axes = figure.axes[0]
    names = ["algo0", "algo1"] * 3
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert texts(axes) == [name for objective in ("o0", "o1", "o2") for name in (objective, objective)]
    assert "no common samples" in figure.get_supxlabel()


def test_bars_of_the_comparisons_are_intervals_over_draws() -> None:
    cells = overlapping()
    pairs = fig4_overlap.comparisons(cells)
    rows = fig4_overlap.means(pairs).set_index("comparison")
    axes = fig4_overlap.draw(fig4_overlap.heat(cells), pairs, "t").axes[-1]
    axes = next(a for a in axes.figure.axes if a.get_xlabel().startswith("corrected overlap"))
    assert_equal(bars(axes, vertical=False), rows)
    assert f"{rows.loc['draws', 'pairs']} pairs, 12 draws" in texts(axes)


def test_only_comparisons_with_pairs_have_a_line() -> None:
    cells = overlapping()
    seeds = pd.concat([cells, cells.assign(seed=9)], ignore_index=True)
    one = cells[cells["objective"] == "o0"]
    always = {"draws differ", "algorithms differ"}
    for shown, more in (
        (cells, {"objectives differ", "calibration data differ"}),
        (seeds, {"objectives differ", "calibration data differ", "seeds differ"}),
        (one[one["calibration"] == one["calibration"].iloc[0]], set()),
    ):
        figure = fig4_overlap.draw(fig4_overlap.heat(shown), fig4_overlap.comparisons(shown), "t")
        axes = next(a for a in figure.axes if a.get_xlabel().startswith("corrected overlap"))
        assert {label.get_text() for label in axes.get_yticklabels()} == always | more


# -- figure 5 ----------------------------------------------------------------------------------------------


def shares_table() -> pd.DataFrame:
    known = [
        ("calibration", 0.9, 0.5, 1.0, np.nan),
        ("search", 0.0, 0.0, 0.02, np.nan),
        ("interaction", 0.11, 0.0, 0.2, np.nan),
        ("objective", 0.9, 0.5, 1.0, 0.01),
        ("samples", np.nan, np.nan, np.nan, np.nan),
        ("algorithm", 0.0, 0.0, 0.02, 0.6),
        ("draw x algorithm, rest", 0.11, 0.0, 0.2, np.nan),
    ]
    return pd.DataFrame(known, columns=["source", "share", "low", "high", "q"]).assign(outcome="masks", df=1)


def drawn_shares() -> Figure:
    table = shares_table().set_index("source")
    parts = {
        name: IntervalEstimate(*(at(table, name, column) for column in ("share", "low", "high")))
        for name in ("calibration", "search", "interaction")
    }
    plain, both = IntervalEstimate(9.0), IntervalEstimate(float("nan"), 45.6, np.inf)
    objective = IntervalEstimate(2.5, 2.0, 3.5)
    shares = Shares(pd.DataFrame(), parts, plain, both, cells=9, draws=6, objective_ratio=objective)
    return fig5_variance_shares.draw({"masks": shares}, shares_table(), "t")


def test_shares_are_percent_and_sources_that_were_not_varied_have_no_row() -> None:
    axes = drawn_shares().axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*fig5_variance_shares.PARTS, "", "objective", "algorithm", "draw x algorithm, rest"]
    assert dict(zip((y for _, y in points(axes)), (x for x, _ in points(axes)), strict=False))[0] == 90
    assert axes.get_xlabel() == "share of variance, %"


def test_every_share_has_its_interval_in_percent() -> None:
    rows = shares_table().dropna(subset="share")[["low", "high"]] * 100
    drawn = bars(drawn_shares().axes[0], vertical=False)
    assert_equal([ends for ends in drawn if ends != (0.0, 1.0)], rows)  # without the line below the sums


def test_the_marker_says_whether_a_source_was_tested() -> None:
    figure = drawn_shares()
    lines = {
        float(line.get_ydata()[0]): (line.get_marker(), line.get_markerfacecolor())
        for line in figure.axes[0].lines
        if len(line.get_xdata()) == 1
    }
    assert [lines[y][0] for y in (0, 1, 2)] == ["s"] * 3  # sums are not tested
    assert lines[4][0] == "o"
    assert lines[4][1] != "white"
    assert lines[5] == ("o", "white")
    assert lines[6][0] == "|"
    assert {"not tested", "q larger", "q at most 0.05", "sum of sources"} <= set(keys(figure))


def test_no_ratio_is_infinite() -> None:
    title = drawn_shares().axes[0].get_title(loc="left")
    assert title.splitlines()[-4:] == [
        "cal : search above 45.6",
        "obj : search 2.50 (2.00 to 3.50)",
        "search at most 2 %",
        "interaction at most 20 %",
    ]
    for low in (np.inf, 8.8e44):  # all searches find the same masks; the second is a rounded share
        assert fig5_variance_shares.ratio_text(IntervalEstimate(float("nan"), low, np.inf)) == "no ratio"
    rounded = IntervalEstimate(1e14, 45.0, 1e16)  # the upper end is a share of 0, rounded
    assert fig5_variance_shares.ratio_text(rounded) == "above 45.0"
    noise = IntervalEstimate(37.0, 1.0, np.inf)
    assert fig5_variance_shares.ratio_text(noise) == "at least 1"  # an end at 1 does not leave it out


# -- figure 6 ----------------------------------------------------------------------------------------------


def test_names_of_columns_do_not_touch() -> None:
    names = ["ppl/wikitext2", "acc/commonsense", "acc/arc_challenge"]
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)
    for word in ("wikitext2", "commonsense", "challenge"):
        drawn = figure.text(0, 0, word, fontsize=style.SMALL).get_window_extent().width / 100
        assert drawn < fig6_crossed.column_width(names)


def test_shades_of_the_matrix_are_steps_in_standard_errors(study: AskedStudy) -> None:
    matrix, regrets = fig6_crossed.matrix_of(study), fig6_crossed.regrets_of(study)
    axes = fig6_crossed.draw(study.frame, matrix, regrets, "t").axes[0]
    (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
    stratum = matrix[matrix["k"] == matrix["k"].min()]
    worse = stratum.pivot(index="objective", columns="outcome", values="worse")
    worse = worse[list(dict.fromkeys(matrix["outcome"]))].to_numpy(float)
    steps = np.ma.getdata(mesh.get_array()).reshape(worse.shape)
    assert (steps == np.minimum(np.floor(worse), 3)).all()
    assert len(set(steps.ravel())) > 1
    bold = {text.get_position() for text in axes.texts if text.get_weight() == "bold"}
    assert bold == {(j + 0.5, i + 0.5) for i, j in np.argwhere(worse == 0)}


def test_the_matrix_prints_the_number_of_draws_and_names_its_shades(study: AskedStudy) -> None:
    matrix, regrets = fig6_crossed.matrix_of(study), fig6_crossed.regrets_of(study)
    figure = fig6_crossed.draw(study.frame, matrix, regrets, "t")
    shown = [text.get_text() for text in figure.axes[0].texts if text.get_position()[0] > 3]
    assert shown == ["6", "3", "6"]  # divergence, margin (items: one source), perplexity
    assert set(fig6_crossed.SHADES) <= set(keys(figure))
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert all("SE of the paired difference (" in label for label in labels)


# -- figures 7 and 8 ---------------------------------------------------------------------------------------


def test_ends_of_searches_have_units_intervals_and_keys(study: AskedStudy) -> None:
    curves, ends = fig7_cost.measure(study.frame, study.traces, study.lines)
    figure = fig7_cost.draw(curves, ends, "t", "scores")
    assert figure.axes[0].get_ylabel() == "pruned for divergence\nexcess loss, nats per token"
    chosen = ends[(ends["objective"] == "divergence") & (ends["k"] == ends["k"].min())]
    assert_equal(bars(figure.axes[0], vertical=True), chosen)
    assert (ends["low"].dropna() >= 0).all()
    assert {"best so far", "end, 95 % interval", "Pareto front"} <= set(keys(figure))


def test_an_objective_without_excess_is_not_drawn(study: AskedStudy) -> None:
    curves, ends = fig7_cost.measure(study.frame, study.traces, study.lines)
    ends.loc[ends["objective"] == "margin", "excess"] = 0.0
    figure = fig7_cost.draw(curves, ends, "t", "scores")
    assert len(figure.axes) == 4
    assert note(figure).endswith("every search found the best known mask: margin")


def test_costs_of_figure_7_are_those_of_table_3(study: AskedStudy) -> None:
    _, ends = fig7_cost.measure(study.frame, study.traces, study.lines)
    costs = outcome_tables.search_means(study.frame, study.lines).set_index(["k", "algo"])
    for (k, algo), rows in ends.groupby(["k", "algo"]):
        columns = {"seconds": "seconds_alone", "forwards": "forwards_alone", "scores": "asked"}
        for cost, column in columns.items():
            mean = np.average(rows[cost], weights=rows["cells"])
            assert mean == pytest.approx(costs.loc[(k, algo), column])


def test_figure_8_is_in_percent_with_intervals_and_counts(study: AskedStudy) -> None:
    rows, curves = fig8_stability.measure(study.frame, study.traces)
    figure = fig8_stability.draw(study.frame, rows, curves, "t")
    left, same, overlap = figure.axes[:3]
    chosen = rows[(rows["objective"] == "divergence") & (rows["algo"] == "greedy") & (rows["k"] == 2)]
    mean = over_draws(100 * chosen["other_mask"].astype(float), CellDraws.of(chosen))
    assert any(x == pytest.approx(mean.mean) for x, _ in points(left))
    ends = np.clip([mean.low, mean.high], 0, 100)
    assert any(bar == pytest.approx(tuple(ends)) for bar in bars(left, vertical=False))
    cells = rows[(rows["objective"] == "divergence") & rows["other_mask"].notna()]
    assert left.get_title(loc="left") == f"pruned for divergence · n = {len(cells)} cells, 6 draws"
    assert [axes.get_ylabel()[-1] for axes in (same, overlap)] == ["%", "%"]
    assert "95 % interval" in keys(figure)


def test_figure_8_says_which_cells_it_leaves_out_and_why(study: AskedStudy) -> None:
    chosen = study.frame.query("objective == 'divergence' and algo == 'greedy' and status == 'done'")
    traces = dict(study.traces)
    for cell in chosen["cell"]:  # as after a race: only the masks that were chosen have all their samples
        traces[cell] = [traces[cell][0], traces[cell][-1]]
    rows, curves = fig8_stability.measure(study.frame, traces)
    figure = fig8_stability.draw(study.frame, rows, curves, "t")
    n = int((rows["objective"] == "divergence").sum())
    title = figure.axes[0].get_title(loc="left")
    assert title == f"pruned for divergence · n = {n - len(chosen)} of {n} cells, 6 draws"
    assert f"left out: {len(chosen)} cells of divergence, where no rival" in note(figure)


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
    shown = outcome_tables.typeset(rows, metric, "t")
    assert not [text for text in texts(shown) if "±" in text]
    assert any("geometric mean" in text and "n = 3 to 6 cells" in text for text in texts(shown))


def test_table_3_prints_what_a_search_costs_alone(study: AskedStudy) -> None:
    rows = outcome_tables.search_means(study.frame, study.lines)
    row = rows[rows["algo"] == "greedy"].iloc[0]
    assert row["seconds_alone"] > 0
    shown = texts(outcome_tables.typeset_search(rows, "t"))
    assert {"a search alone", "in this study", "seconds", "scores paid"} <= set(shown)
    recorded = study.frame["seconds"].astype(float).mean()
    assert recorded != pytest.approx(rows["seconds_alone"].mean())
