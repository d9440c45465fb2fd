from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import COMMANDS
from analysis.data import load as load_module
from analysis.data.archive import NothingToRead
from analysis.data.load import load
from analysis.data.study import describe, trace
from analysis.figures import fig1_masks, fig2_ranks, fig3_variance, fig4_overlap, outcome_tables, style
from analysis.stats import mask_overlap
from analysis.stats import means as means_module
from tests.helpers.analysis_grid import ONE, Study, write
from tests.helpers.analysis_grid import frame as grid

MODULES = (
    "fig1_masks",
    "fig2_ranks",
    "fig3_variance",
    "fig4_overlap",
    "fig5_variance_shares",
    "fig6_crossed",
    "fig7_cost",
    "fig8_stability",
    "table1_accuracy",
    "table2_perplexity",
    "table3_search",
)
SMALL = Study(
    models=("llama3",),
    ratios=(0.1,),
    objectives=("perplexity", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian"),
    metrics=("ppl/wikitext2", "ppl/c4", "acc/piqa", "acc/boolq"),
    lost=2,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write(folder, SMALL)
    return folder


def draw(module: str, results: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> pd.DataFrame:
    monkeypatch.setattr(sys, "argv", [module, "--results", str(results), "--study", "small", *flags])
    resolve_name(f"analysis.{COMMANDS[module.partition('_')[0]]}")()
    return pd.read_csv(results / "figures" / f"{module}.csv")


@pytest.mark.parametrize("module", MODULES)
def test_every_figure_writes_pdf_png_and_csv(
    module: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(draw(module, results, monkeypatch))
    for ending in ("pdf", "png"):
        assert (results / "figures" / f"{module}.{ending}").stat().st_size > 5000


def test_the_same_results_give_the_same_bytes(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw("fig4_overlap", results, monkeypatch)
    paths = [results / "figures" / f"fig4_overlap.{ending}" for ending in ("pdf", "png", "csv")]
    first = [path.read_bytes() for path in paths]
    draw("fig4_overlap", results, monkeypatch)
    assert [path.read_bytes() for path in paths] == first


def test_figure_2_writes_all_statistics_of_agreement(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw("fig2_ranks", results, monkeypatch)
    agreements = pd.read_csv(results / "figures" / "fig2_agreement.csv")
    assert set(agreements["statistic"]) == {"spearman", "kendall", "weighted", "kendall_w"}
    assert set(agreements["masks"]) == {"all", "distinct"}
    assert agreements.loc[agreements["value"].isna(), "note"].notna().all()


@pytest.mark.parametrize("module", MODULES)
def test_a_study_of_one_cell_can_be_drawn(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = Study(
        models=("smollm2",), ratios=(0.1,), objectives=("margin",), algos=("greedy",), seeds=(0,), lost=0
    )
    write(tmp_path, single)
    draw(module, tmp_path, monkeypatch)


def test_missing_and_failed_cells_are_filled_from_their_names(results: Path) -> None:
    frame = load(results, "small")
    lacking = frame[frame["status"] != "done"]
    assert sorted(lacking["status"]) == ["failed", "missing", "missing"]
    assert set(lacking["model"]) == {"llama3"}
    assert set(lacking["k"]) == {3}
    assert lacking[["objective", "algo", "seed"]].notna().all(axis=None)
    assert "3 of 36 cells missing or failed" in describe(frame, "small")


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (range(12), "seeds 0, 1, 10, 11, 2, 3"),
        (range(-1, 12), "13 seeds between -1 and 11"),
        ([0.0, *range(100, 112)], "13 seeds between 0 and 111"),
    ],
)
def test_a_title_does_not_list_very_many_seeds(seeds: Sequence[float], words: str) -> None:
    cells = grid(draws=len(seeds), objectives=1, data=1, algos=1)
    assert words in describe(cells.assign(seed=list(seeds), commit="c0ffee"), "large")
    commits = cells.assign(seed=0, commit=[f"c{i:02d}" for i in range(len(seeds))])
    listed = "13 commits: c00, c01, c02, …" if len(seeds) > 12 else "commits c00, c01, c02, c03"
    assert listed in describe(commits, "large")


def test_the_cost_ledger_and_the_calibration_are_in_the_frame(results: Path) -> None:
    frame = load(results)
    cell = frame[(frame["algo"] == "one_shot") & (frame["objective"] == "margin")].iloc[0]
    assert cell["block_forwards_alone"] == cell["asked"] * (32 - 3)
    assert cell["samples"] == 16
    assert np.isnan(cell["length"])
    assert cell["draw"] == cell["seed"]


def test_draws_of_items_are_one_setting_whatever_their_longest_is(results: Path) -> None:
    cells = load(results, "small").query("objective == 'margin' and status == 'done'")
    assert cells["length"].isna().all()
    assert cells["draw"].nunique() == 3


def test_results_from_before_the_ledger_can_be_read(tmp_path: Path) -> None:
    (key,) = write(
        tmp_path,
        Study(
            models=("smollm2",), ratios=(0.1,), objectives=("margin",), algos=("greedy",), seeds=(0,), lost=0
        ),
    )
    path = tmp_path / key / "result.json"
    result = json.loads(path.read_text())
    result["search"] = {
        k: v for k, v in result["search"].items() if not k.startswith(("block", "peak", "forward"))
    }
    path.write_text(json.dumps(result))
    assert np.isnan(load(tmp_path)["block_forwards"].astype(float)[0])


def test_partial_scores_are_skipped(results: Path) -> None:
    cell = load(results).iloc[0]["cell"]
    lines = (results / cell / "trace.jsonl").read_text().splitlines()
    assert len(trace(results, cell)) == len(lines) - 1


def test_metrics_by_name_and_mean(results: Path) -> None:
    frame = load(results)
    assert load_module.choose(frame, "ppl").names == ("ppl/c4", "ppl/wikitext2")
    assert load_module.choose(frame, "acc", "piqa") == load_module.choose(frame, "acc", "acc/piqa")
    assert load_module.choose(frame, "acc").label == "mean accuracy (2 tasks)"
    with pytest.raises(NothingToRead, match="Measured: acc/boolq, acc/piqa"):
        load_module.choose(frame, "acc", "arc_easy")


def test_a_recorded_mean_is_no_task_of_its_own(results: Path) -> None:
    frame = load(results, "small").assign(**{"pruned/acc/mean": 0.9, "pruned/acc/mean/stderr": 0.1})
    assert load_module.choose(frame, "acc").label == "mean accuracy (2 tasks)"
    with pytest.raises(NothingToRead, match="Measured: acc/boolq, acc/piqa"):
        load_module.choose(frame, "acc", "mean")


def test_a_mean_over_fewer_metrics_is_no_mean(results: Path) -> None:
    frame = load(results)
    metric = load_module.choose(frame, "ppl")
    frame.loc[0, "pruned/ppl/c4"] = np.nan
    assert np.isnan(metric.of(frame)[0])
    assert metric.of(frame)[1:].notna().sum() >= 30


def test_a_mean_is_over_what_nearly_every_cell_has_and_says_what_it_leaves_out(results: Path) -> None:
    frame = load(results)
    done = frame.index[frame["status"] == "done"]
    few, many = done[: len(done) // 20], done[: len(done) // 5]
    assert len(few)
    frame.loc[few, "pruned/ppl/c4"] = np.nan
    assert load_module.choose(frame, "ppl").names == (
        "ppl/c4",
        "ppl/wikitext2",
    )  # the few cells without it have no mean
    frame.loc[many, "pruned/ppl/c4"] = np.nan
    metric = load_module.choose(frame, "ppl")
    assert (metric.names, metric.others) == (("ppl/wikitext2",), ("ppl/c4",))
    assert metric.label == "perplexity (wikitext2, 1 of 2 corpora)"
    assert metric.of(frame)[many[0]] == frame.loc[many[0], "pruned/ppl/wikitext2"]
    tasks = frame.assign(**{"pruned/acc/arc_easy": frame["pruned/acc/piqa"].where(frame.index == done[0])})
    assert load_module.choose(tasks, "acc").label == "mean accuracy (2 of 3 tasks)"
    frame.loc[many, "pruned/ppl/wikitext2"] = np.nan  # cells without any metric of the kind do not count
    assert load_module.choose(frame, "ppl").others == ()
    frame["pruned/ppl/lambada"] = np.nan
    assert "ppl/lambada" not in load_module.names(frame, "ppl")


def test_where_no_metric_is_common_the_mean_is_over_all(results: Path) -> None:
    frame = load(results)
    frame["pruned/ppl/c4"] = frame["pruned/ppl/c4"].where(frame.index % 4 != 0)
    frame["pruned/ppl/wikitext2"] = frame["pruned/ppl/wikitext2"].where(frame.index % 4 != 1)
    assert load_module.choose(frame, "ppl").names == ("ppl/c4", "ppl/wikitext2")


def test_searches_are_compared_on_the_draws_that_all_have() -> None:
    rows = [
        {
            "objective": "o",
            "calibration": "t",
            "samples": 1,
            "length": 1,
            "draw": d,
            "algo": a,
            "dropped": (d,),
            "x": x,
        }
        for d, a, x in ((0, "a", 1.0), (0, "b", 1.0), (1, "a", 9.0))
    ]
    means = means_module.means(pd.DataFrame(rows), ["x"])
    assert list(means["x"]) == [1.0, 1.0]
    assert set(means["draws_note"]) == {"1 of 2 draws"}
    assert means["masks"].nunique() == 1


def test_an_exhaustive_search_in_some_settings_takes_no_setting_from_the_others() -> None:
    cells = grid(objectives=1, data=2, draws=2, algos=3)
    few = cells[(cells["algo"] == "algo0") & (cells["calibration"] == "text0")].assign(algo="exhaustive")
    panel = pd.concat([cells, few], ignore_index=True)
    whole, note = means_module.compared(panel)
    assert note == ""
    assert len(whole) == len(cells)
    assert set(means_module.compared(few)[0]["algo"]) == {
        "exhaustive"
    }  # if no other search was run, it is kept


def test_too_few_points_are_noted_beside_the_ranks(results: Path) -> None:
    frame = load(results, "small")
    ranks = fig2_ranks.ranks(frame, load_module.choose(frame, "ppl"), load_module.choose(frame, "acc"))
    assert set(ranks["k"]) == {3}
    few = frame[frame["algo"].isin(["one_shot", "greedy"])]
    noted = fig2_ranks.ranks(few, load_module.choose(frame, "ppl"), load_module.choose(frame, "acc"))
    assert noted["note"].str.contains("at least 4").all()


def test_one_broken_mask_does_not_decide_a_rank_by_perplexity(results: Path) -> None:
    """Ten times as good in one draw and twice as bad in the other is better: geometric means say so."""
    cells = grid(objectives=1, data=1, draws=2, algos=5)
    steady = pd.Series(100.0, cells.index)
    broken = cells["algo"] == "algo1"
    perplexity = steady.where(~broken, np.where(cells["draw"] == cells["draw"].min(), 10.0, 200.0))
    frame = cells.assign(
        dropped=cells["algo"],
        **{"pruned/ppl/text": perplexity, "pruned/acc/items": np.linspace(0.2, 0.8, len(cells))},
    )
    ranked = fig2_ranks.ranks(frame, load_module.choose(frame, "ppl"), load_module.choose(frame, "acc"))
    best = ranked.set_index("algo").loc["algo1"]
    assert best["perplexity"] == pytest.approx(np.sqrt(10.0 * 200.0))
    assert best["perplexity_rank"] == 1


def test_variance_of_the_paper_is_looked_up() -> None:
    assert fig3_variance.published_variance("accuracy", "margin", "llama3_1", 7) == 3.3
    assert np.isnan(fig3_variance.published_variance("accuracy", "perplexity", "llama3_1", 7))


def test_tables_count_cells_and_show_the_papers_numbers(tmp_path: Path) -> None:
    study = Study(
        models=("llama3",), ratios=(7 / 32,), objectives=("margin",), algos=("one_shot", "greedy"), lost=1
    )
    write(tmp_path, study)
    frame = load(tmp_path, "small")
    rows = outcome_tables.aggregate(frame, load_module.choose(frame, "acc")).set_index("algo")
    assert rows.loc["greedy", "paper"] == 60.69
    assert rows["cells"].sum() == len(frame) - 1
    assert rows["asked"].sum() == len(frame)
    lines = outcome_tables.typeset(rows.reset_index(), load_module.choose(frame, "acc"), "title")
    texts = [text.get_text() for text in lines.texts]
    assert {"60.69", "74.58"} <= set(texts)  # greedy, and nothing removed
    assert any("paper: its mean over six tasks" in text for text in texts)
    assert any(text.endswith("(2/3)") for text in texts)


def test_numbers_of_broken_models_are_short() -> None:
    shown = [style.number(value) for value in (0.123, 40.57, 21_622.0, 1.36e8, -2e6, 1e15)]
    assert shown == ["0.12", "40.6", "21,622", "1.4e8", "-2e6", "1e15"]
    counts = {"cells": 5, "asked": 6}
    for row, text in (
        (counts | {"mean": 1.36e8, "sd": 2.79e8}, "1.4e8 ± 2.8e8 (5/6)"),
        (counts | {"geometric": 1.36e8, "factor": 1.162}, f"1.4e8 {outcome_tables.SPREAD} 1.16 (5/6)"),
        ({"mean": 53.24, "sd": 1.06, "cells": 6, "asked": 6}, "53.2 ± 1.1"),
        ({"mean": np.nan, "sd": np.nan, "cells": 0, "asked": 6}, f"{style.DASH} (0/6)"),
    ):
        assert outcome_tables.shown_value(pd.Series(row)) == text


def test_a_legend_has_equally_long_rows() -> None:
    drawn, _ = style.panels(1, 1, 8.0, 1.0, "title")
    style.legend(drawn, style.looks(["fast_block_select"] * 6 + list("abcde")), "a note")
    assert [legend._ncols for legend in drawn.legends] == [3]


def test_names_look_alike_everywhere() -> None:
    names = style.ordered(["annealing", "greedy", "exhaustive", "one_shot"])
    assert names == ["one_shot", "greedy", "exhaustive", "annealing"]
    many = style.looks([str(i) for i in range(30)])
    assert len(set(many.values())) == 30


def test_calibration_data_have_short_names_or_paths_if_short_names_are_equal(tmp_path: Path) -> None:
    keys = write(tmp_path, Study(**(ONE.__dict__ | {"seeds": (0, 1, 2, 3), "cells": []})))
    given = [
        {"source": "file", "path": "/data/a/wiki.txt"},
        {"source": "hub", "path": "allenai/c4", "name": "en"},
        {"text": {"source": "pydoc"}, "items": {"source": "file", "path": "own.jsonl"}},
        {"source": "commonsense170k", "path": "zwhe99/commonsense_170k"},
    ]
    for key, drawn in zip(keys, given, strict=True):
        _recalibrated(tmp_path / key / "result.json", drawn)
    assert list(load(tmp_path, "small")["calibration"]) == ["wiki", "c4", "pydoc + own", "commonsense170k"]
    _recalibrated(tmp_path / keys[1] / "result.json", {"source": "file", "path": "/data/b/wiki.txt"})
    loaded = load(tmp_path, "small")
    assert list(loaded["calibration"][:2]) == ["/data/a/wiki.txt", "/data/b/wiki.txt"]
    assert "path" not in loaded


def _recalibrated(path: Path, drawn: dict[str, object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    record["config"]["calibration"] = drawn | {"samples": 16, "seed": 0}
    path.write_text(json.dumps(record), encoding="utf-8")


def test_figures_of_a_part_go_to_a_subfolder(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--only", "objective=margin", "--only", "algo=greedy,genetic")
    monkeypatch.setattr(sys, "argv", ["fig1_masks", "--results", str(results), "--study", "small", *flags])
    fig1_masks.FIGURE()
    part = pd.read_csv(results / "figures" / "objective=margin__algo=greedy,genetic" / "fig1_masks.csv")
    assert set(part["objective"]) == {"margin"}
    assert set(part["algo"]) == {"greedy", "genetic"}
    whole = load(results, "small")
    kept = load(results, "small", {"k": ["3"], "objective": ["margin"]})
    assert len(kept) == (whole["objective"] == "margin").sum()
    assert "only k 3 · only objective margin" in describe(
        kept, "small", {"k": ["3"], "objective": ["margin"]}
    )


def test_a_missing_cell_of_unknown_data_is_kept_by_a_filter_on_data(results: Path) -> None:
    whole = load(results, "small")
    lost = whole[whole["status"] == "missing"]
    assert lost["calibration"].isna().all()
    source = str(whole["calibration"].dropna().iloc[0])
    kept = load(results, "small", {"calibration": [source]})
    assert set(lost["cell"]) <= set(kept["cell"])
    assert set(kept["calibration"].dropna()) == {source}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("objective=bogus", "no cell has objective=bogus; the values are: margin, perplexity"),
        ("objective", "give COLUMN=VALUE"),
        ("colour=red", "the columns are model, objective"),
    ],
)
def test_a_wrong_filter_is_refused(
    flag: str,
    message: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        draw("fig1_masks", results, monkeypatch, "--only", flag)
    assert message in f"{ended.value} {capsys.readouterr().err}"


def test_the_overlap_figure_says_what_it_leaves_out() -> None:
    cells = grid(draws=2, objectives=1, data=1, algos=2)
    cells = cells.assign(dropped=[(1, 2, i + 3) for i in range(len(cells))])
    heats, pairs = fig4_overlap.heat(cells), fig4_overlap.comparisons(cells)
    said = fig4_overlap.draw(heats, pairs, "a title", mask_overlap.SAMPLED).get_supxlabel()
    assert said.replace("\n", " ").endswith(mask_overlap.SAMPLED)
    assert mask_overlap.SAMPLED not in fig4_overlap.draw(heats, pairs, "a title").get_supxlabel()
