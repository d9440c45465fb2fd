from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.calibration.samples import Row, Samples

ITEM_ROWS = (
    Row((1, 2, 3, 4), (2, 4), 0, 0, False),
    Row((1, 2, 5), (2, 3), 0, 1, True),
    Row((7, 8), (1, 2), 1, 0, True),
    Row((7, 9, 9, 9), (1, 4), 1, 1, False),
    Row((7, 6), (1, 2), 1, 2, False),
)


def text_samples(*rows: range) -> Samples:
    return Samples("text", "t", tuple(Row(tuple(row), (1, len(row))) for row in rows), 0)


@given(st.integers(0, 6), st.integers(-2, 8), st.integers(-2, 8))
def test_a_row_has_tokens_to_score_and_one_before_them(length: int, start: int, stop: int) -> None:
    ids = tuple(range(length))
    if 1 <= start < stop <= length:
        assert Row(ids, (start, stop)).span == (start, stop)
    else:
        with pytest.raises(ValueError, match=f"does not fit {length} tokens"):
            Row(ids, (start, stop))


def test_the_digest_is_that_of_the_saved_file_and_never_changes(tmp_path: Path) -> None:
    samples = Samples("text", "t", (Row((1, 2, 3), (1, 3)),), 0)
    line = b'{"input_ids": [1, 2, 3], "span": [1, 3]}\n'
    assert samples.sha256 == hashlib.sha256(line).hexdigest()
    path = samples.save(tmp_path / "calibration")
    assert path == tmp_path / "calibration" / f"{samples.sha256}.jsonl"
    assert path.read_bytes() == line


@pytest.mark.parametrize(
    "row", [Row((1, 2, 4), (1, 3)), Row((1, 2, 3), (2, 3)), Row((1, 2, 3), (1, 3), 0, 0, True)]
)
def test_the_digest_is_of_the_rows_and_of_nothing_else(row: Row) -> None:
    one = Samples("text", "t", (Row((1, 2, 3), (1, 3)),), 0)
    assert Samples("text", "other", one.rows, 7).sha256 == one.sha256
    assert Samples("text", "t", (row,), 0).sha256 != one.sha256


def test_samples_are_saved_once_with_the_documented_keys(tmp_path: Path) -> None:
    samples = Samples("items", "i", ITEM_ROWS, 0)
    path = samples.save(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"input_ids", "span", "item", "choice", "right"}] * 5
    assert lines[1] == {"input_ids": [1, 2, 5], "span": [2, 3], "item": 0, "choice": 1, "right": True}
    path.write_text("untouched")
    assert samples.save(tmp_path).read_text() == "untouched"


def test_count_and_length() -> None:
    items = Samples("items", "i", ITEM_ROWS, 0)
    assert (items.count, items.length) == (2, 4)
    text = text_samples(range(8), range(9), range(7))
    assert (text.count, text.length) == (3, 9)


def test_answers_are_normalised_by_their_own_length() -> None:
    found = list(Samples("items", "i", ITEM_ROWS, 0).answers([-4.0, -3.0, -1.0, -6.0, -5.0]))
    assert found == [([-2.0, -3.0], 1), ([-1.0, -2.0, -5.0], 0)]


def test_answers_need_a_value_for_each_row() -> None:
    with pytest.raises(ValueError):
        list(Samples("items", "i", ITEM_ROWS, 0).answers([0.0] * 4))


@pytest.mark.parametrize(("start", "shared"), [(8, 32), (39, 1), (40, 0), (1000, 0)])
def test_shared_text_is_counted_in_runs_wherever_they_lie(start: int, shared: int) -> None:
    one, other = text_samples(range(71), range(500, 564)), text_samples(range(start, start + 64))
    assert one.shared(other) == other.shared(one) == shared


@pytest.mark.parametrize("length", [16, 24, 31, 40])
def test_short_windows_that_are_cut_elsewhere_still_share_text(length: int) -> None:
    one = text_samples(*(range(i, i + length) for i in range(0, 4 * length, length)))
    assert one.shared(one) > 0
    assert one.shared(text_samples(range(2 * length, 3 * length))) > 0
    assert one.shared(text_samples(range(4 * length, 5 * length))) == 0


def test_shared_items_are_counted_by_their_keys() -> None:
    one, other = (Samples("items", "i", ITEM_ROWS, 0, frozenset(keys)) for keys in ("abc", "bcd"))
    assert one.shared(other) == 2


def test_text_and_items_share_nothing_even_of_equal_tokens() -> None:
    text = text_samples(range(64))
    items = Samples("items", "i", (Row(tuple(range(64)), (1, 2), 0, 0, True),), 0)
    assert text.shared(text) > 0
    assert text.shared(items) == items.shared(text) == 0
