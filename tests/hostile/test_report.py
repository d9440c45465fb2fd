"""Damaged, missing and foreign files of a study: each is named, the rest is drawn, and no traceback is shown."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.data.archive import NothingToRead
from analysis.data.load import done, load
from analysis.data.study import AskedStudy, journals
from analysis.figures.cli import figures
from analysis.report import page
from tests.helpers.analysis_grid import ONE, write
from tests.helpers.damage import content, edit_json, folder_instead, half

STUDY = replace(ONE, algos=("one_shot", "greedy", "beam"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write(folder, STUDY)
    return folder


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "results"))


def cell_of(results: Path) -> Path:
    return next(results.glob("*-greedy-*"))


def run(module: str, monkeypatch: pytest.MonkeyPatch, results: Path, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--results", str(results), "--study", "small", *flags])
    figures()[module.partition("_")[0]]()


def last_lines_gone(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:9]) + "\n")


def line(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(path.read_text() + text + "\n")


def changed(*keys: str, to: object) -> Callable[[Path], None]:
    """A function that changes an entry of a JSON file, or removes it if `to` is GONE."""

    def edit(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        if to is GONE:
            del data[keys[-1]]
        else:
            data[keys[-1]] = to

    return lambda path: edit_json(path, edit)


GONE = object()


RESULTS = {
    "truncated": (half, "damaged"),
    "binary": (content(b"\xff\xfe\x00"), "damaged"),
    "a list": (content(b"[]"), "no result"),
    "a folder": (folder_instead, "read ("),
    "no mask": (changed("mask", to=GONE), "'mask'"),
    "text for a loss": (changed("calibration", "loss", to="low"), "'low'"),
    "text for a metric": (changed("evaluation", "pruned", "acc/heldout", to="high"), "acc/heldout"),
    "a block too many": (changed("mask", "dropped", to=[99]), "[99]"),
    "no configuration": (changed("config", to=7), "damaged"),
    "unknown status": (changed("status", to="perhaps"), "'perhaps'"),
    "of another cell": (changed("cell", to="other"), ", other"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_damaged_result_is_named_and_the_other_cells_are_read(case: str, results: Path) -> None:
    damage, words = RESULTS[case]
    path = cell_of(results) / "result.json"
    damage(path)
    frame = load(results, "small").set_index("cell")
    assert sorted(frame["status"]) == ["damaged", "done", "done"]
    assert frame.loc[path.parent.name, "algo"] == "greedy"
    assert f"{path.parent.name}/result.json" in frame.loc[path.parent.name, "damage"]
    assert str(results) not in frame.loc[path.parent.name, "damage"]
    assert words in frame.loc[path.parent.name, "damage"]


JOURNALS = {
    "missing": Path.unlink,
    "truncated": half,
    "cut at a line": last_lines_gone,
    "empty": content(b""),
    "a folder": folder_instead,
    "a line of text": line("nonsense"),
}


@pytest.mark.parametrize("case", JOURNALS)
def test_a_damaged_journal_is_named_and_the_others_are_read(case: str, results: Path) -> None:
    path = cell_of(results) / "trace.jsonl"
    JOURNALS[case](path)
    read = journals(results, done(load(results, "small")))
    (said,) = read.damages
    assert said.startswith(f"{path.parent.name}/trace.jsonl ")
    assert sum(bool(scores) for scores in read.traces.values()) >= 2


def test_an_objective_without_any_journal_is_counted_and_is_no_damage(
    results: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = journals(results, done(load(results, "small"))).traces
    for path in results.glob("*/trace.jsonl"):
        path.unlink()
    read = journals(results, done(load(results, "small")))
    assert (read.damages, {*read.traces}) == ([], {*known})
    with caplog.at_level(logging.INFO, "analysis"):
        run("fig7_cost", monkeypatch, results)
    count = f"{len(known)} of {len(known)} finished cells have no journal"
    assert f"absent   {count}; of their searches, only the chosen masks are known" in caplog.text


def test_a_figure_draws_the_rest_names_the_file_and_fails(
    results: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half(cell_of(results) / "result.json")
    with pytest.raises(SystemExit) as ended, caplog.at_level(logging.INFO, "analysis"):
        run("table3_search", monkeypatch, results)
    assert ended.value.code == 1
    assert f"damaged  {cell_of(results).name}/result.json" in caplog.text
    assert (results / "figures" / "table3_search.csv").exists()


@pytest.mark.slow
def test_the_page_says_which_files_are_damaged_and_shows_the_rest(results: Path) -> None:
    changed("calibration", "standard_error", to=None)(cell_of(results) / "result.json")  # of a single sample
    journal = next(results.glob("*-beam-*")) / "trace.jsonl"
    journal.unlink()
    half(next(results.glob("*-one_shot-*")) / "result.json")
    text = page.write(AskedStudy(results, "small"), results / "figures").read_text(encoding="utf-8")
    for words in ("<strong>2 files ", rf"{journal.parent.name}/trace\.jsonl .*missing", "1 damaged"):
        assert re.search(words, text)
    assert "± unknown" in text
    assert "drawing failed" not in text


def no_result_whole(study: Path) -> None:
    for path in study.parents[1].glob("*/result.json"):
        half(path)


STUDIES = {
    "truncated": (half, ".", r"small\.json is damaged"),
    "numbers": (content(b'{"cells": [1]}'), ".", r"small\.json is damaged"),
    "no cells": (content(b'{"cells": []}'), ".", "'small' .*depth-pruning grid"),
    "a folder": (folder_instead, ".", r"small\.json .*read"),
    "no result that is whole": (no_result_whole, ".", r"result\.json is damaged"),
    "results that are absent": (Path.exists, "absent", "absent"),
    "results that are a file": (Path.exists, "studies/small.json", "small.json"),
    "a damaged archive": (
        lambda path: (path.parents[1] / "a.tar.xz").touch(),
        "a.tar.xz",
        r"a\.tar\.xz is damaged",
    ),
}


@pytest.mark.parametrize("case", STUDIES)
def test_a_damaged_study_is_a_sentence(case: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, place, words = STUDIES[case]
    damage(results / "studies" / "small.json")
    with pytest.raises(NothingToRead, match=words):
        run("table3_search", monkeypatch, results / place, "--out", str(results / "out"))


@pytest.mark.parametrize("out", ["studies/small.json", "studies/small.json/below", "/proc/below"])
def test_a_bad_out_is_an_error_before_anything_is_computed(
    out: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.figures.outcome_tables.search_means", lambda *_: pytest.fail("computed"))
    with pytest.raises(OSError, match=out):
        run("table3_search", monkeypatch, results, "--out", str(results / out))
