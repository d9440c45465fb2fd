"""`calibration=mixed`: half of the windows from each of two texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.calibration.items import Items
from pruning.calibration.sources import PARTED, documents
from pruning.calibration.text import Mixed, Text
from pruning.config.app import build_named
from pruning.core.errors import InputError
from pruning.evaluation.heldout import Heldout
from tests.conftest import Command
from tests.helpers.tokens import Numbers, written
from tests.helpers.wikipedia import use_dump


def text(folder: Path, first: int, count: int = 400) -> Text:
    """A file of the numbers from `first` on, as a calibration whose sizes are not used."""
    words = " ".join(map(str, range(first, first + count)))
    path = written(folder, f"from{first}.jsonl", {"text": words})
    return Text("file", 1, 8, 5, path=str(path))


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
    assert drawn.rows[0::2] == alone[0]
    assert drawn.rows[1::2] == alone[1]


def test_the_option_draws_the_embedded_texts(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_dump(monkeypatch, tmp_path)
    drawn = build_named("calibration", "mixed", "seed=1").draw(tokenizer)
    assert (drawn.count, drawn.length, drawn.seed) == (64, 128, 1)
    assert drawn.source == "pydoc + wikipedia_sample"
    alone = Text("wikipedia_sample", 32, 128, 1).draw(tokenizer)
    assert drawn.rows[1::2] == alone.rows
    assert drawn.shuffled().rows != drawn.rows
    assert set(drawn.shuffled().rows) == set(drawn.rows)


def test_a_cell_is_calibrated_on_both(
    launch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_dump(monkeypatch, tmp_path)
    words = ("algo=one_shot", "k=1", "calibration=mixed")
    ended = launch(*words, "eval.texts=[wikipedia_sample]")
    assert ended.status == 0, ended.err
    result = ended.result()
    assert result["calibration"]["source"] == "pydoc + wikipedia_sample"
    assert result["calibration"]["samples"] == 4
    assert {"ppl/heldout", "ppl/wikipedia_sample", "acc/heldout"} <= set(result["evaluation"]["pruned"])
    other = launch(*words, "calibration@calibration.second=text_file", f"calibration.second.path={__file__}")
    assert other.status == 0, other.err
    assert len({one["cell"] for one in other.all()}) == 2, "the texts are part of the cell's identity"


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    one = text(tmp_path, 0)
    with pytest.raises(
        InputError, match=r"calibration\.second is a calibration of items: choose one of text"
    ):
        Mixed(one, Items("commonsense", 4, 0), 4, 16, 0)
    with pytest.raises(InputError, match="give at least 2, one for each text"):
        Mixed(one, one, 1, 16, 0)
    with pytest.raises(InputError, match=r"calibration\.length=3 is too short"):
        Mixed(one, one, 2, 3, 0)
    with pytest.raises(InputError, match=r"share \d+ runs of tokens: choose two different texts"):
        Mixed(one, one, 30, 16, 0).draw(Numbers())
    with pytest.raises(InputError, match="is too short: it has 400 tokens, but 15 windows of 30 need 450"):
        Mixed(one, text(tmp_path, 500), 30, 30, 0).draw(Numbers())


def test_the_embedded_source_is_all_embedded_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_dump(monkeypatch, tmp_path)
    for part in ("calibration", "heldout"):
        alone = [one for name in PARTED for one in documents(Text(name, 1, 8, 0, part=part))]
        assert list(documents(Text("embedded", 1, 8, 0, part=part))) == alone


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
    with pytest.raises(InputError, match=r"unknown text in eval\.texts 'c4'"):
        Heldout(texts=["c4"])
