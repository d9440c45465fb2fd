from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from pruning.calibration.items import Items
from pruning.calibration.samples import Row, Samples
from pruning.calibration.text import Both, Text, interleaved
from pruning.config.app import register
from pruning.config.groups import CONF
from pruning.core.errors import InputError
from pruning.core.scoring import Estimate

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
    samples = Samples("text", "t", (Row((1, 2, 3), (1, 3)),), 0)
    assert Samples("text", "other", samples.rows, 7).sha256 == samples.sha256
    assert Samples("text", "t", (row,), 0).sha256 != samples.sha256


def test_samples_are_saved_once_with_the_documented_keys(tmp_path: Path) -> None:
    samples = Samples("items", "i", ITEM_ROWS, 0)
    path = samples.save(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"input_ids", "span", "item", "choice", "right"}] * 5
    assert lines[1] == {"input_ids": [1, 2, 5], "span": [2, 3], "item": 0, "choice": 1, "right": True}
    before = path.stat()
    assert samples.save(tmp_path).stat().st_mtime_ns == before.st_mtime_ns, (
        "a whole file is not written again"
    )


def test_count_and_length() -> None:
    items = Samples("items", "i", ITEM_ROWS, 0)
    assert (items.count, items.length) == (2, 4)
    text = text_samples(range(8), range(9), range(7))
    assert (text.count, text.length) == (3, 9)


def test_answers_are_normalised_by_their_own_length() -> None:
    answers = list(Samples("items", "i", ITEM_ROWS, 0).answers([-4.0, -3.0, -1.0, -6.0, -5.0]))
    assert answers == [([-2.0, -3.0], 1), ([-1.0, -2.0, -5.0], 0)]


def test_answers_need_a_value_for_each_row() -> None:
    with pytest.raises(ValueError):
        list(Samples("items", "i", ITEM_ROWS, 0).answers([0.0] * 4))


@pytest.mark.parametrize(("start", "shared"), [(8, 32), (39, 1), (40, 0), (1000, 0)])
def test_shared_text_is_counted_in_runs_at_any_position(start: int, shared: int) -> None:
    a, b = text_samples(range(71), range(500, 564)), text_samples(range(start, start + 64))
    assert a.shared(b) == b.shared(a) == shared


@pytest.mark.parametrize("length", [16, 24, 31, 40])
def test_short_windows_with_other_cuts_still_share_text(length: int) -> None:
    text = text_samples(*(range(i, i + length) for i in range(0, 4 * length, length)))
    assert text.shared(text) > 0
    assert text.shared(text_samples(range(2 * length, 3 * length))) > 0
    assert text.shared(text_samples(range(4 * length, 5 * length))) == 0


def test_shared_items_are_counted_by_their_keys() -> None:
    a, b = (Samples("items", "i", ITEM_ROWS, 0, frozenset(keys)) for keys in ("abc", "bcd"))
    assert a.shared(b) == 2


def test_text_and_items_share_nothing_even_if_their_tokens_are_equal() -> None:
    text = text_samples(range(64))
    items = Samples("items", "i", (Row(tuple(range(64)), (1, 2), 0, 0, True),), 0)
    assert text.shared(text) > 0
    assert text.shared(items) == items.shared(text) == 0


def both_samples() -> Samples:
    text = text_samples(range(8), range(9), range(7))
    units = interleaved(text.units, Samples("items", "i", ITEM_ROWS, 0).units)
    return Samples("both", "b", tuple(row for unit in units for row in unit), 0, frozenset("ab"))


def test_a_window_is_a_sample_and_an_item_is_all_its_choices() -> None:
    text = text_samples(range(8), range(8), range(7))
    assert text.units == tuple((row,) for row in text.rows), "even if two windows are equal"
    assert Samples("items", "i", ITEM_ROWS, 0).units == (ITEM_ROWS[:2], ITEM_ROWS[2:])
    both = both_samples()
    assert [unit[0].item for unit in both.units] == [None, 0, None, 1, None]
    assert both.count == 5


def test_parts_are_samples_and_put_together_they_are_the_whole() -> None:
    for samples in (text_samples(range(8), range(9)), Samples("items", "i", ITEM_ROWS, 0), both_samples()):
        for cut in range(samples.count + 1):
            head, tail = samples.part(0, cut), samples.part(cut, samples.count)
            assert head.units + tail.units == samples.units
            assert (head.kind, head.source, head.seed) == (samples.kind, samples.source, samples.seed)
        assert samples.part(0, samples.count).sha256 == samples.sha256


def test_samples_of_both_kinds_are_taken_apart() -> None:
    both = both_samples()
    assert both.only("items").rows == ITEM_ROWS
    assert both.only("text").rows == text_samples(range(8), range(9), range(7)).rows
    assert (both.only("text").kind, both.only("items").kind) == ("text", "items")


def test_windows_weigh_by_their_tokens_and_items_alike() -> None:
    assert text_samples(range(8), range(9)).estimate() == Estimate((7.0, 8.0), (0, 0))
    assert Samples("items", "i", ITEM_ROWS, 0).estimate() == Estimate((1.0, 1.0), (0, 0))
    mixed = both_samples().estimate((0.25, 0.75))
    assert mixed == Estimate((7.0, 1.0, 8.0, 1.0, 6.0), (0, 1, 0, 1, 0), (0.25, 0.75))


def test_values_of_rows_are_gathered_by_sample() -> None:
    assert both_samples().per_unit([1, 2, 3, 4, 5, 6, 7, 8]) == [[1], [2, 3], [4], [5, 6, 7], [8]]


def test_both_kinds_share_what_each_shares() -> None:
    both = both_samples()
    assert both.shared(Samples("items", "i", ITEM_ROWS, 0, frozenset("bc"))) == 1
    assert Samples("items", "i", ITEM_ROWS, 0, frozenset("bc")).shared(both) == 1
    long = Samples("both", "b", (*text_samples(range(64)).rows, *ITEM_ROWS), 0, frozenset("a"))
    assert long.shared(text_samples(range(64))) == text_samples(range(64)).shared(long) > 0
    assert long.shared(long) == text_samples(range(64)).shared(text_samples(range(64))) + 1
    assert long.shared(text_samples(range(500, 564))) == 0


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_beginning_of_both_has_both_in_proportion(windows: int, items: int) -> None:
    text = [(Row((1, 2), (1, 2)),)] * windows
    units = interleaved(text, [(Row((1, 2), (1, 2), n, 0, True),) for n in range(items)])
    assert [unit[0].item for unit in units if unit[0].item is not None] == list(range(items))
    for n in range(2, len(units) + 1):
        first = sum(unit[0].item is None for unit in units[:n])
        assert 1 <= first < n
        assert abs(first - n * windows / (windows + items)) <= 1


def test_a_calibration_of_both_kinds_draws_both(tokenizer: Any) -> None:
    text, items = Text("pydoc", 5, 16, 3), Items("commonsense", 7, 3)
    drawn = Both(text, items).draw(tokenizer)
    assert (drawn.kind, drawn.count, drawn.source, drawn.seed) == ("both", 12, "pydoc + commonsense", 3)
    assert drawn.only("text").rows == text.draw(tokenizer).rows
    assert drawn.only("items").rows == items.draw(tokenizer).rows
    assert drawn.keys == items.draw(tokenizer).keys
    assert drawn.part(0, 2).only("text").count == drawn.part(0, 2).only("items").count == 1


def test_a_calibration_of_both_kinds_says_which_is_wrong(tokenizer: Any) -> None:
    text, items = Text("pydoc", 5, 16, 3), Items("commonsense", 7, 3)
    with pytest.raises(InputError, match=r"calibration.text is a calibration of items: choose one of text"):
        Both(items, items)
    with pytest.raises(InputError, match=r"lower calibration.items.samples"):
        Both(text, Items("commonsense", 10**6, 3)).draw(tokenizer)


def test_both_parts_are_chosen_and_set_on_the_command_line() -> None:
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [
            "objective=weighted",
            "calibration@calibration.text=wikitext2",
            "calibration.items.samples=9",
        ]
        settings = compose("config", [*chosen, "seed=4"]).calibration
        with pytest.raises(HydraException, match="sampels"):
            compose("config", ["objective=weighted", "calibration.text.sampels=4"])
    both = instantiate(settings)
    assert (both.text.path, both.items.samples, both.text.seed) == ("Salesforce/wikitext", 9, 4)
    assert hash(both) == hash(instantiate(settings))


def unnumbered(samples: Samples) -> set[tuple[tuple[int, ...], ...]]:
    return {tuple(row.input_ids for row in unit) for unit in samples.units}


def test_shuffled_samples_are_the_same_in_a_random_order_from_the_seed() -> None:
    windows = Samples("text", "t", tuple(Row((i, i + 1), (1, 2)) for i in range(40)), 3)
    shuffled = windows.shuffled()
    assert unnumbered(shuffled) == unnumbered(windows)
    assert windows.shuffled().sha256 == shuffled.sha256
    first = [row.input_ids[0] for row in shuffled.rows]
    assert first != sorted(first)
    assert abs(sum(first[:20]) / 20 - 19.5) < 6, "the first half differs from the first half of the source"
    assert [row.input_ids[0] for row in replace(windows, seed=4).shuffled().rows] != first


def test_shuffled_items_keep_their_choices_and_are_numbered_in_their_new_order() -> None:
    rows = tuple(Row((i, c), (1, 2), i, c, c == i % 2) for i in range(20) for c in (0, 1))
    items = Samples("items", "i", rows, 0)
    shuffled = items.shuffled()
    assert [row.item for row in shuffled.rows] == [row.item for row in rows]
    assert unnumbered(shuffled) == unnumbered(items)
    assert [row.input_ids for row in shuffled.rows] != [row.input_ids for row in rows]
    assert all(row.right == (row.choice == row.input_ids[0] % 2) for row in shuffled.rows)


def test_shuffling_both_kinds_keeps_the_order_of_kinds() -> None:
    texts = tuple((Row((i, i + 1), (1, 2)),) for i in range(9))
    items = tuple((Row((i, 5), (1, 2), i, 0, True), Row((i, 6), (1, 2), i, 1, False)) for i in range(20))
    both = Samples("both", "b", tuple(row for unit in interleaved(texts, items) for row in unit), 0)
    shuffled = both.shuffled()
    assert [unit[0].item is None for unit in shuffled.units] == [unit[0].item is None for unit in both.units]
    assert unnumbered(shuffled) == unnumbered(both)
    assert shuffled.units != both.units
