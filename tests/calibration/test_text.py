"""Windows of text, alone (`Text`), from two texts (`Mixed`), and together with items (`Both`)."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.items import Items
from pruning.calibration.sources import pydoc
from pruning.calibration.text import Both, Mixed, Text, start_tokens
from pruning.config.app import build_option
from pruning.evaluation.heldout import Heldout
from tests.helpers.tokens import Numbers, with_bos, written
from tests.helpers.wikipedia import use_dump


def numbers(folder: Path, *documents: range, name: str = "numbers.jsonl") -> str:
    lines = [{"text": " ".join(map(str, document))} for document in documents]
    return str(written(folder, name, *lines))


def text(folder: Path, first: int) -> Text:
    """A file of 400 numbers from `first` on, as a calibration whose sizes are not used."""
    return Text("file", 1, 8, 5, path=numbers(folder, range(first, first + 400), name=f"from{first}.jsonl"))


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


def test_each_window_begins_as_the_tokenizer_begins_a_text(tokenizer: Any) -> None:
    beginning, unused = with_bos(tokenizer), copy.deepcopy(tokenizer)
    unused.add_special_tokens({"bos_token": "<s>"})
    assert start_tokens(tokenizer) == start_tokens(unused) == ()
    assert start_tokens(beginning) == (beginning.bos_token_id,)
    samples = Text("pydoc", 4, 16, 0).draw(beginning)
    for row in samples.rows:
        assert row.input_ids[0] == beginning.bos_token_id
        assert row.input_ids.count(beginning.bos_token_id) == 1
        assert (len(row.input_ids), row.span) == (16, (1, 16))
    stream = [t for d in pydoc("calibration") for t in tokenizer(d).input_ids]
    cut = {tuple(stream[i : i + 15]) for i in range(0, len(stream), 15)}
    assert {row.input_ids[1:] for row in samples.rows} <= cut, "windows begin at multiples of 15 tokens"


@pytest.mark.parametrize("samples", [2, 5, 8])
def test_half_of_the_windows_are_those_of_each_text(tmp_path: Path, samples: int) -> None:
    first, second = text(tmp_path, 0), text(tmp_path, 1000)
    drawn = Mixed(first, second, samples, 10, 3).draw(Numbers())
    assert (drawn.kind, drawn.count, drawn.length, drawn.seed) == ("text", samples, 10, 3)
    assert drawn.source == f"{first.path} + {second.path}"
    alone = [
        replace(part, samples=count, length=10, seed=3).draw(Numbers()).rows
        for part, count in ((first, (samples + 1) // 2), (second, samples // 2))
    ]
    assert (drawn.rows[0::2], drawn.rows[1::2]) == tuple(alone)


def test_the_option_draws_the_embedded_texts(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_dump(monkeypatch, tmp_path)
    drawn = build_option("calibration", ["calibration=mixed", "seed=1"]).draw(tokenizer)
    assert (drawn.count, drawn.length, drawn.seed) == (64, 128, 1)
    assert drawn.rows[1::2] == Text("wikipedia_sample", 32, 128, 1).draw(tokenizer).rows


def test_the_held_out_parts_of_all_embedded_texts(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_dump(monkeypatch, tmp_path)
    plain = Heldout(4, 32, 6).data(tokenizer)
    more = Heldout(4, 32, 6, texts=["wikipedia_sample"]).data(tokenizer)
    assert list(more) == ["ppl/heldout", "ppl/wikipedia_sample", "acc/heldout"]
    assert {name: more[name].sha256 for name in plain} == {name: one.sha256 for name, one in plain.items()}
    whole = Text("wikipedia_sample", 4, 32, 0, part="heldout").draw(tokenizer)
    assert more["ppl/wikipedia_sample"].rows == whole.rows
    trained = Text("embedded", 60, 32, 0).draw(tokenizer)
    assert all(data.shared(trained) == 0 for data in more.values())


def test_a_calibration_of_both_kinds_draws_both(tokenizer: Any) -> None:
    windows, items = Text("pydoc", 5, 16, 3), Items("commonsense", 7, 3)
    drawn = Both(windows, items).draw(tokenizer)
    assert (drawn.kind, drawn.count, drawn.source, drawn.seed) == ("both", 12, "pydoc + commonsense", 3)
    assert drawn.only("text").rows == windows.draw(tokenizer).rows
    assert drawn.only("items").rows == items.draw(tokenizer).rows
    assert drawn.keys == items.draw(tokenizer).keys
    assert drawn.part(0, 2).only("text").count == drawn.part(0, 2).only("items").count == 1
