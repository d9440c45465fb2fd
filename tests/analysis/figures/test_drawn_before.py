"""A figure is drawn again if, and only if, something that decides it has changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.figures import cli, outcome_tables
from tests.helpers.analysis_grid import ONE, write


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path, ONE)
    return tmp_path


def drawings(monkeypatch: pytest.MonkeyPatch, results: Path, *flags: str) -> int:
    """How often the figure is computed by one run of its command."""
    computed = []
    aggregate = outcome_tables.search_means
    with monkeypatch.context() as patched:
        patched.setattr(outcome_tables, "search_means", lambda *of: computed.append(1) or aggregate(*of))
        patched.setattr(sys, "argv", ["figure", "--results", str(results), "--study", "small", *flags])
        outcome_tables.TABLE3()
    return len(computed)


def longer(pattern: str) -> Callable[[Path], None]:
    def change(results: Path) -> None:
        (path,) = results.glob(pattern)
        path.write_text(path.read_text() + "\n")

    return change


@pytest.mark.parametrize(
    "change",
    [
        longer("*/result.json"),
        longer("studies/small.json"),
        longer("figures/table3_search.csv"),
        lambda results: (results / "figures" / "table3_search.pdf").unlink(),
        lambda results: (results / "figures" / ".drawn" / "table3_search.json").write_text("{"),
    ],
)
def test_a_change_is_seen_and_without_one_nothing_is_drawn(
    change: Callable[[Path], None], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [drawings(monkeypatch, results) for _ in range(2)] == [1, 0]
    change(results)
    assert [drawings(monkeypatch, results) for _ in range(2)] == [1, 0]


def test_flags_and_code_are_inputs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawings(monkeypatch, results) == 1
    assert drawings(monkeypatch, results, "--only", "k=3", "--out", str(results / "figures")) == 1
    assert drawings(monkeypatch, results) == 1
    monkeypatch.setattr(cli, "_code", lambda: iter(["other code"]))
    assert drawings(monkeypatch, results) == 1


def test_a_new_record_of_routing_is_seen(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [drawings(monkeypatch, results) for _ in range(2)] == [1, 0]
    record = results / "routing" / "one" / "routing.json"
    for text in ("{}", "{} "):
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(text)
        assert [drawings(monkeypatch, results) for _ in range(2)] == [1, 0]
