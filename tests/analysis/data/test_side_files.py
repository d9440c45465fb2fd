"""Damaged files beside the results are named, and the rest is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.data.study import damaged, read_routing, side_files
from analysis.report import cells
from analysis.stats.grid import terms_beside
from analysis.stats.healed import _read

CELL = "tiny-perplexity-greedy-k1-s0-00000000"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A cell with terms, a healing, and a record of routing."""
    files = {
        f"{CELL}/result.json": {
            "evaluation": {"records": {"ppl/a": {"pruned": "evaluation/ppl-a-1/m.json"}}}
        },
        f"{CELL}/healed/h/heal.json": {"settings": {}},
        f"{CELL}/healed/h/evaluation.json": {"records": {"ppl/a": "evaluation/ppl-a-1-healed-2/m.json"}},
        "evaluation/ppl-a-1/m.json": {"value": 1},
        "evaluation/ppl-a-1/m.terms.json": {"losses": [1.0]},
        "evaluation/ppl-a-1-healed-2/m.terms.json": {"losses": [0.5]},
        "routing/r/routing.json": {"cells": {"a": CELL}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / CELL / "healed/h/heal.jsonl").write_text('{"step": 0, "tokens": 0}\n', encoding="utf-8")
    return tmp_path


def test_the_files_are_those_that_figures_read(results: Path) -> None:
    names = {str(path.relative_to(results)) for path in side_files(results, CELL)}
    assert names == {
        *(f"{CELL}/healed/h/{name}" for name in ("heal.json", "heal.jsonl", "evaluation.json")),
        "evaluation/ppl-a-1/m.terms.json",
        "evaluation/ppl-a-1-healed-2/m.terms.json",
    }
    assert damaged(results, [CELL]) == []


def test_damaged_files_are_named_and_left_out(results: Path) -> None:
    terms, heal = results / "evaluation/ppl-a-1/m.terms.json", results / CELL / "healed/h"
    torn = (terms, heal / "heal.json", results / "routing/r/routing.json")
    for path in torn:
        path.write_text('{"cells": [1, ', encoding="utf-8")
    (heal / "heal.jsonl").write_text("no json\n", encoding="utf-8")
    named = [f"{path.relative_to(results)} is damaged" for path in sorted({*torn, heal / "heal.jsonl"})]
    assert damaged(results, [CELL]) == named
    assert terms_beside(terms.with_name("m.json")) is None
    assert _read(heal / "heal.json") == {}
    assert read_routing(results, {CELL}) == []
    assert cells.figure(results / CELL, {"folder": "healed/h"}) == ""  # type: ignore[arg-type]
