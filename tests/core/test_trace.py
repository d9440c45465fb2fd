"""The journal's lines: complete ones are read, a torn one waits, a damaged one is marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core.scoring import NAME, TraceLine, append_trace, read_trace

LINE: TraceLine = {"dropped": [1, 4], "loss": 2.5, "samples": [2.0, 3.0], "seconds": 0.5}


def test_lines_come_back_with_their_numbers_and_ends(tmp_path: Path) -> None:
    path = tmp_path / NAME
    append_trace(path, LINE)
    append_trace(path, {**LINE, "of": 8})
    first, second = read_trace(path)
    assert (first.number, first.line) == (1, LINE)
    assert (second.number, second.end) == (2, path.stat().st_size)
    assert [entry.line for entry in read_trace(path, first.end)] == [{**LINE, "of": 8}]


def test_a_torn_line_is_left_out_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / NAME
    append_trace(path, LINE)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:9])
    assert len(list(read_trace(path))) == 1
    path.write_bytes(whole + whole)
    assert len(list(read_trace(path))) == 2
    assert list(read_trace(tmp_path / "nothing")) == []


@pytest.mark.parametrize(
    "text",
    ["{}", "[1]", "x", '{"dropped": ["a"], "loss": 1, "samples": [], "seconds": 0}',
     '{"dropped": [1], "loss": NaN, "samples": [1.0], "seconds": 0}',
     '{"dropped": [1], "loss": 1.0, "samples": [Infinity], "seconds": 0}'],
)  # fmt: skip
def test_a_complete_line_that_holds_no_score_is_marked(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text + "\n")
    (entry,) = read_trace(tmp_path / NAME)
    assert entry.line is None
