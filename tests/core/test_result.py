"""`result.json` is read in one form, and a file that is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.core.errors import DamagedError
from pruning.core.records import NAME, read_done, read_result, recorded, same_settings, write_result

FAILED: dict[str, Any] = {
    "cell": "a",
    "status": "failed",
    "error": {"type": "LossError", "message": "no", "log": "x"},
    "config": {"algo": {"_target_": "pruning.algo.greedy.Greedy", "max_evaluations": None}},
    "environment": {},
}


def test_no_file_is_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "nothing") is None


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"cell": "a", "status": "done"}'])
def test_what_is_no_result_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(DamagedError, match="is damaged"):
        read_result(tmp_path)


def test_import_paths_are_read_as_names_and_written_as_names(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps(FAILED))
    result = read_result(tmp_path)
    assert result is not None
    assert result["config"]["algo"] == {"class": "Greedy"}
    assert result["config"]["max_evaluations"] is None
    write_result(tmp_path, result)
    assert "_target_" not in (tmp_path / NAME).read_text()
    with pytest.raises(DamagedError, match="no finished result"):
        read_done(tmp_path)


def test_the_recorded_form_is_reached_in_one_step_at_any_depth() -> None:
    settings = {"_target_": "a.b.Both", "parts": [{"_target_": "a.Text"}], "limit": 3}
    once = recorded(settings)
    assert once == {"class": "Both", "parts": [{"class": "Text"}], "limit": 3}
    assert recorded(once) == once


def test_the_name_of_an_option_decides_nothing() -> None:
    assert same_settings({"option": "a", "class": "X", "n": 1}, {"_target_": "m.X", "n": 1})
    assert not same_settings({"class": "X", "n": 1}, {"class": "X", "n": 2})
