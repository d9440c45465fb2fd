"""The command that says how many draws a study needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from analysis.data.archive import NothingToRead
from analysis.figures import power
from tests.helpers.analysis_grid import ONE, Study, write

ROOT = Path(__file__).parents[3]
SMALL = Study(
    models=("llama3",),
    ratios=(0.1,),
    objectives=("perplexity", "margin"),
    algos=("one_shot", "greedy", "genetic", "bayesian"),
    seeds=(0, 1),
    lost=1,
)
COUNT = re.compile(r"(\d+) of (\d+)")


def run(monkeypatch: pytest.MonkeyPatch, results: Path, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["power", "--results", str(results), "--study", "small", *flags])
    power.main()


def test_the_command_prints_counts_for_each_outcome_and_number_of_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, SMALL)
    run(monkeypatch, tmp_path, "--draws", "2,3", "--studies", "2")
    printed = capsys.readouterr().out.splitlines()
    found = [line for line in printed if re.match(r".*\S +[23]  ", line)]
    assert [line.split("  ")[0] for line in found][::2] == [
        "masks", "calibration loss", "log perplexity (heldout)", "accuracy (heldout)",
    ]  # fmt: skip
    for line in found:
        counts = COUNT.findall(line)
        assert len(counts) == (2 if line.startswith("calibration loss") else 4), line
        assert all(int(n) <= int(all_) == 2 for n, all_ in counts)


def test_too_few_draws_for_an_interval_are_said_in_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, SMALL)
    run(monkeypatch, tmp_path, "--draws", "2", "--studies", "1", "--only", "objective=perplexity")
    printed = capsys.readouterr().out
    assert printed.count("no interval: 4 draws; at least 6 are needed") == 4
    assert not COUNT.findall(printed.split("draws", 1)[1])


def test_a_study_with_too_little_data_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ONE)
    with pytest.raises(NothingToRead, match="one calibration only") as refused:
        run(monkeypatch, tmp_path)
    assert "run it with two draws of each calibration and two searches" in str(refused.value)


@pytest.mark.parametrize("flags", [("--draws", "3,1"), ("--draws", "six"), ("--studies", "0")])
def test_impossible_numbers_are_refused(
    flags: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, *flags)
    assert "is not possible" in capsys.readouterr().err


@pytest.mark.slow
def test_the_documented_counts_are_those_of_the_archive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounding can differ between machines, and a study at the limit is then decided or not: one may differ."""
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").partition("## How many draws?")[2]
    flags = ["--only", "model=smollm2", "--only", "k=6", "--only", "objective=perplexity,divergence,margin"]
    assert " ".join(flags) in " ".join(text.split())
    run(monkeypatch, ROOT / "analysis" / "small" / "small.tar.xz", *flags, "--draws", "3,6")
    printed = [
        line for line in capsys.readouterr().out.splitlines() if re.match(r".* [36]  .*\d of 40", line)
    ]
    assert len(printed) == 8
    for line in printed:
        (documented,) = [known for known in text.splitlines() if known[:42] == line[:42]]
        for count, known in zip(COUNT.findall(line), COUNT.findall(documented), strict=True):
            assert abs(int(count[0]) - int(known[0])) <= 1, line
