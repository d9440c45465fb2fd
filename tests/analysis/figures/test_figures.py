"""Every figure and table as a command, and what the figures share: frames, metrics, titles, style."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from analysis.data.archive import NothingToRead
from analysis.data.load import choose, load
from analysis.data.study import AskedStudy, describe
from analysis.figures import cli, fig2_ranks, outcome_tables, style
from analysis.stats import means as means_module
from tests.helpers import analysis_grid
from tests.helpers.analysis_grid import ONE, Study, write
from tests.helpers.analysis_grid import frame as grid

FIGURES = {figure.name: figure for figure in cli.figures().values()}
# Figures 9 and 10 need a study of their own; see their tests.
DRAWN = [name for name in FIGURES if name not in ("fig9_units", "fig10_healing")]
SMALL = replace(
    analysis_grid.SMALL,
    models=("llama3",),
    metrics=("ppl/wikitext2", "ppl/c4", "acc/piqa", "acc/boolq"),
    lost=2,
)
# Two objectives and two searches on one draw of each data, as in the demo.
FOUR = replace(ONE, objectives=("margin", "divergence"), algos=("one_shot", "greedy"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write(folder, SMALL)
    return folder


def draw(name: str, results: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> pd.DataFrame:
    monkeypatch.setattr(sys, "argv", [name, "--results", str(results), *flags])
    FIGURES[name]()
    return pd.read_csv(next(results.rglob(f"{name}.csv")))


def test_every_file_of_a_figure_is_a_command_of_its_name() -> None:
    names = list(cli.figures())
    figures = [name for name in names if name.startswith("fig")]
    assert figures == [f"fig{number}" for number in range(1, 1 + len(figures))]
    assert names == [*figures, "table1", "table2", "table3"]
    for command, figure in cli.figures().items():
        assert figure.name.startswith(f"{command}_")
        assert figure.build.__module__.rpartition(".")[2] in (figure.name, "outcome_tables")
        assert bool(figure.section) == bool(figure.caption)


def test_the_figure_of_the_page_on_extending_is_drawn(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    code = page.partition("## Add a figure")[2].partition("```python\n")[2].partition("```")[0]
    module: dict[str, Any] = {"__name__": "analysis.figures.fig11_seconds", "__package__": "analysis.figures"}
    exec(code, module)
    flags = ["--results", str(results), "--study", "small", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["fig11", *flags])
    module["FIGURE"]()
    assert len(pd.read_csv(tmp_path / "fig11_seconds.csv")) == len(SMALL.algos)


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("fig")])
@pytest.mark.parametrize("of", [SMALL, FOUR], ids=["small", "four cells"])
def test_a_figure_is_as_wide_as_a_page_and_its_texts_can_be_read(
    name: str, of: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at least 6.5 points, none over another or over the edge, and no commit among them."""
    write(tmp_path, of)
    style.use_style()
    figure_of = FIGURES[name]
    try:
        figure = figure_of.of(AskedStudy(tmp_path, "small")).figure
    except NothingToRead:
        assert of is FOUR
        return
    shown: dict[Text, Bbox] = {}
    drawn = Text.draw

    def record(text: Text, renderer: Any) -> None:
        drawn(text, renderer)
        if text.get_visible() and text.get_text().strip():
            shown[text] = text.get_window_extent(renderer)

    monkeypatch.setattr(Text, "draw", record)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == style.PAGE
    assert figure.get_figheight() < 10
    assert min(text.get_fontsize() for text in shown) >= 6.5
    assert not [text for text in shown if "commit" in text.get_text()]
    page = figure.bbox.padded(1)
    for (one, box), (other, beside) in combinations(shown.items(), 2):
        assert page.contains(*box.min), one
        assert page.contains(*box.max), one
        assert not box.padded(-1).overlaps(beside.padded(-1)), (one, other)


def test_one_command_draws_all_that_a_study_has_data_for(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["depth-pruning figure", "all", "--results", str(results), "--study", "small"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    folder = results / "figures"
    assert {path.stem for path in folder.glob("*.png")} == {*DRAWN}
    for name in DRAWN:
        assert len(pd.read_csv(folder / f"{name}.csv"))
        assert min((folder / f"{name}.{ending}").stat().st_size for ending in ("pdf", "png")) > 5000
        with Image.open(folder / f"{name}.png") as picture:
            assert "study small" in picture.info["Description"]
            assert picture.info["Title"] == FIGURES[name].heading


# Which cells are drawn.


def test_figures_of_a_part_go_to_a_subfolder(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--study small --only objective=margin --only algo=greedy --only algo=genetic"
    part = words.split()
    draw("fig1_masks", results, monkeypatch, *part)
    folder = results / "figures" / "objective=margin__algo=greedy,genetic"
    drawn = pd.read_csv(folder / "fig1_masks.csv")
    assert (set(drawn["objective"]), set(drawn["algo"])) == ({"margin"}, {"greedy", "genetic"})
    only = {"k": ["3"], "objective": ["margin"]}
    kept = load(results, "small", only)
    assert len(kept) == (load(results, "small")["objective"] == "margin").sum()
    assert "only k 3 · only objective margin" in describe(kept, "small", only)


@pytest.mark.parametrize(
    ("flag", "words"),
    [("objective=bogus", "margin, perplexity"), ("objective", "COLUMN=VALUE"), ("colour=red", "objective")],
)
def test_a_wrong_filter_is_refused(
    flag: str,
    words: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        draw("fig1_masks", results, monkeypatch, "--only", flag)
    message = f"{ended.value} {capsys.readouterr().err}"
    assert words in message
    assert flag.partition("=")[0] in message


def test_missing_and_failed_cells_are_filled_from_their_names(results: Path) -> None:
    whole = load(results, "small")
    lacking = whole[whole["status"] != "done"]
    assert sorted(lacking["status"]) == ["failed", "missing", "missing"]
    assert (set(lacking["model"]), set(lacking["k"])) == ({"llama3"}, {3})
    assert lacking[["objective", "algo", "seed"]].notna().all(axis=None)
    assert "3 of 36 cells missing" in describe(whole, "small")
    lost = whole[whole["status"] == "missing"]  # of unknown data: kept by a filter on data
    assert lost["calibration"].isna().all()
    source = str(whole["calibration"].dropna().iloc[0])
    kept = load(results, "small", {"calibration": [source]})
    assert set(lost["cell"]) <= set(kept["cell"])
    assert set(kept["calibration"].dropna()) == {source}


# Comparable draws, and ranks.


def test_an_exhaustive_search_in_some_settings_takes_no_setting_from_the_others() -> None:
    cells = grid(objectives=1, data=2, draws=2, algos=3)
    few = cells[(cells["algo"] == "algo0") & (cells["calibration"] == "text0")].assign(algo="exhaustive")
    whole, note = means_module.compared(pd.concat([cells, few], ignore_index=True))
    assert (note, len(whole)) == ("", len(cells))
    assert set(means_module.compared(few)[0]["algo"]) == {"exhaustive"}  # kept if it is the only search


def test_one_broken_mask_does_not_decide_a_rank_by_perplexity() -> None:
    """Ten times as good in one draw and twice as bad in the other is better: geometric means say so."""
    cells = grid(objectives=1, data=1, draws=2, algos=5)
    first = cells["draw"] == cells["draw"].min()
    perplexity = np.where(cells["algo"] == "algo1", np.where(first, 10.0, 200.0), 100.0)
    measured = {"pruned/ppl/text": perplexity, "pruned/acc/items": np.linspace(0.2, 0.8, len(cells))}
    frame = cells.assign(dropped=cells["algo"], **measured)
    both = choose(frame, "ppl"), choose(frame, "acc")
    best = fig2_ranks.ranks(frame, *both).set_index("algo").loc["algo1"]
    assert (best["perplexity"], best["perplexity_rank"]) == (pytest.approx(np.sqrt(10.0 * 200.0)), 1)
    few = fig2_ranks.ranks(frame[frame["algo"].isin(["algo1", "algo2"])], *both)
    assert few["spearman"].isna().all()
    assert few["note"].str.startswith("2 pairs; at least 4").all()


# The paper's numbers, and style.


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"mean": 1.36e8, "sd": 2.79e8, "cells": 5, "asked": 6}, "1.4e8 ± 2.8e8 (5/6)"),
        ({"geometric": 1.36e8, "factor": 1.162, "cells": 5, "asked": 6}, "1.4e8 ×÷ 1.16 (5/6)"),  # noqa: RUF001
        ({"mean": 53.24, "sd": 1.06, "cells": 6, "asked": 6}, "53.2 ± 1.1"),
        ({"mean": 53.24, "sd": np.nan, "cells": 1, "asked": 1}, "53.2"),
        ({"mean": np.nan, "sd": np.nan, "cells": 0, "asked": 6}, f"{style.DASH} (0/6)"),
    ],
)
def test_a_value_of_a_table_has_its_spread_and_its_counts(row: dict[str, float], text: str) -> None:
    assert outcome_tables.shown_value(pd.Series(row)) == text


def test_numbers_of_broken_models_are_short() -> None:
    shown = [style.number(value) for value in (0.123, 40.57, 21_622.0, 1.36e8, -2e6, 1e15)]
    assert shown == ["0.12", "40.6", "21,622", "1.4e8", "-2e6", "1e15"]


def test_names_are_ordered_and_written_as_people_write_them() -> None:
    ordered = style.ordered(["annealing", "greedy", "exhaustive", "one_shot"])
    assert ordered == ["one_shot", "greedy", "exhaustive", "annealing"]
    named = [style.named(name) for name in ("one_shot", "smollm2 (sublayer)", "block_influence")]
    assert named == ["one-shot", "SmolLM2 135M (sublayer)", "block influence"]
