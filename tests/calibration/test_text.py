from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.sources import pydoc
from pruning.calibration.text import Text, start_tokens
from pruning.core.errors import InputError
from tests.helpers.tokens import Numbers, with_bos, written


@pytest.fixture(scope="module")
def beginning(tokenizer: Any) -> Any:
    return with_bos(tokenizer)


def numbers(folder: Path, *documents: range) -> str:
    lines = [{"text": " ".join(map(str, document))} for document in documents]
    return str(written(folder, "numbers.jsonl", *lines))


def test_text_is_cut_into_windows_that_do_not_overlap(tmp_path: Path) -> None:
    path = numbers(tmp_path, range(30), range(30, 60), range(60, 107))
    samples = Text("file", samples=9, length=10, seed=3, path=path).draw(Numbers())
    starts = [row.input_ids[0] for row in samples.rows]
    assert starts == sorted(set(starts))
    assert set(starts) < set(range(0, 100, 10)), "a window begins at a multiple of its length"
    for row in samples.rows:
        assert row.input_ids == tuple(range(row.input_ids[0], row.input_ids[0] + 10))
        assert row.span == (1, 10)
        assert row.item is row.right is None


def test_a_seed_decides_the_windows(tokenizer: Any) -> None:
    draws = [Text("pydoc", 6, 32, seed).draw(tokenizer) for seed in (0, 0, 1)]
    assert draws[0].rows == draws[1].rows
    assert draws[0].sha256 != draws[2].sha256
    assert (draws[2].kind, draws[2].source, draws[2].seed, draws[2].count) == ("text", "pydoc", 1, 6)


def test_too_short_a_text_says_what_it_has_and_what_is_needed(tmp_path: Path) -> None:
    path = numbers(tmp_path, range(39))
    assert Text("file", 3, 13, 0, path=path).draw(Numbers()).count == 3
    with pytest.raises(InputError, match=r"has 39 tokens, but 4 windows of 10 need 40: lower") as caught:
        Text("file", 4, 10, 0, path=path).draw(Numbers())
    assert path in str(caught.value)


def test_each_window_begins_as_the_tokenizer_begins_a_text(tokenizer: Any, beginning: Any) -> None:
    assert start_tokens(tokenizer) == ()
    assert start_tokens(beginning) == (beginning.bos_token_id,)
    samples = Text("pydoc", 4, 16, 0).draw(beginning)
    for row in samples.rows:
        assert row.input_ids[0] == beginning.bos_token_id
        assert row.input_ids.count(beginning.bos_token_id) == 1
        assert len(row.input_ids) == 16
        assert row.span == (1, 16)
    stream = [t for d in pydoc("calibration") for t in tokenizer(d).input_ids]
    cut = {tuple(stream[i : i + 15]) for i in range(0, len(stream), 15)}
    assert {row.input_ids[1:] for row in samples.rows} <= cut, (
        "without BOS, windows begin at multiples of 15 tokens"
    )


def test_a_tokenizer_that_has_a_bos_but_does_not_use_it_gets_none(tokenizer: Any) -> None:
    unused = copy.deepcopy(tokenizer)
    unused.add_special_tokens({"bos_token": "<s>"})
    assert start_tokens(unused) == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, r"samples=0 .* at least 1"),
        ({"length": 7}, r"length=7 .* at least 8"),
        ({"source": "pydok"}, r"'pydok'.*Did you mean pydoc"),
    ],
)
def test_wrong_text_settings_are_named(settings: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"source": "pydoc", "samples": 1, "length": 8, "seed": 0}
    assert Text(**valid)
    with pytest.raises(InputError, match=message):
        Text(**valid | settings)


def test_only_a_file_is_part_of_a_text_cells_identity() -> None:
    assert Text("file", 1, 8, 0, path="a.txt").file() == "a.txt"
    assert Text("hub", 1, 8, 0, path="allenai/c4").file() is None


def test_a_path_that_the_source_does_not_read_is_refused(tokenizer: Any) -> None:
    stray = Text("pydoc", 2, 32, 0, path="notes.txt")  # as an older result may record it
    with pytest.raises(
        InputError, match=r"calibration\.path=notes\.txt is not read with calibration\.source=pydoc"
    ):
        stray.draw(tokenizer)
