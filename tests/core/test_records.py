"""Records: results and journals are read in one form, damaged ones are refused, and metrics have names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core import scoring
from pruning.core.errors import DamagedError
from pruning.core.records import (
    NAME,
    filtered_of,
    label_of,
    main_of,
    read_done,
    read_result,
    recorded,
    same_settings,
)
from pruning.core.scoring import TraceLine, read_trace
from pruning.core.storage import append_line

FAILED: dict[str, Any] = {
    "cell": "a",
    "status": "failed",
    "error": {"type": "LossError", "message": "no", "log": "x"},
    "config": {"algo": {"_target_": "pruning.algo.greedy.Greedy", "max_evaluations": None}},
    "environment": {},
}


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"cell": "a", "status": "done"}'])
def test_what_is_no_result_is_damaged(tmp_path: Path, text: str) -> None:
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "nothing") is None
    (tmp_path / NAME).write_text(text)
    with pytest.raises(DamagedError, match=NAME):
        read_result(tmp_path)


def test_a_failed_cell_is_no_finished_one(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps(FAILED))
    assert read_result(tmp_path) == FAILED
    with pytest.raises(DamagedError, match=str(tmp_path)):
        read_done(tmp_path)


def test_the_recorded_form_is_reached_in_one_step_and_an_options_name_decides_nothing() -> None:
    settings = {"_target_": "a.b.Both", "parts": [{"_target_": "a.Text"}], "limit": 3}
    once = recorded(settings)
    assert once == {"class": "Both", "parts": [{"class": "Text"}], "limit": 3}
    assert recorded(once) == once
    assert same_settings({"option": "a", "class": "X", "n": 1}, {"_target_": "m.X", "n": 1})
    assert not same_settings({"class": "X", "n": 1}, {"class": "X", "n": 2})


@pytest.mark.parametrize(
    ("name", "main", "label"),
    [
        ("acc_plain/arc", "acc/arc", "plain accuracy"),
        ("exact/gsm8k", "exact/gsm8k", "exact answers"),
        ("exact_flexible-extract/gsm8k", "exact/gsm8k", "exact answers, flexible-extract"),
        ("self_ppl/continuations", "self_ppl/continuations", "perplexity of the dense model's text"),
        ("repeated/continuations", "self_ppl/continuations", "repeated tokens"),
        ("other/x", "other/x", "other"),
    ],
)
def test_names_of_one_measurement(name: str, main: str, label: str) -> None:
    assert (main_of(name), label_of(name)) == (main, label)
    assert filtered_of("exact/gsm8k", "flexible-extract") == "exact_flexible-extract/gsm8k"


# The journal: complete lines are read, a torn one waits, a damaged one is marked.

LINE: TraceLine = {"dropped": [1, 4], "loss": 2.5, "samples": [2.0, 3.0], "seconds": 0.5}


@pytest.mark.parametrize(
    "text",
    ["[1]", "x", '{"dropped": ["a"], "loss": 1, "samples": [], "seconds": 0}',
     '{"dropped": [1], "loss": NaN, "samples": [1.0], "seconds": 0}',
     '{"dropped": [1], "loss": 1.0, "samples": [Infinity], "seconds": 0}'],
)  # fmt: skip
def test_a_complete_line_that_holds_no_score_is_marked(tmp_path: Path, text: str) -> None:
    path = tmp_path / scoring.NAME
    assert list(read_trace(path)) == []
    append_line(path, LINE)
    with path.open("a") as stream:
        stream.write(text + "\n")
    first, second = read_trace(path)
    assert (first.number, first.line) == (1, LINE)
    assert (second.number, second.line, second.end) == (2, None, path.stat().st_size)
