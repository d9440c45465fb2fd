from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pytest

from pruning.calibration import sources
from pruning.calibration.items import Items
from pruning.calibration.sources import Item, documents, embedded_items, items, pydoc
from pruning.calibration.text import Text
from pruning.core.errors import InputError
from tests.helpers.tokens import Numbers, written

GOOD = {"question": "Which floats?", "choices": ["A cork", "A coin"], "answer": 0}


def read(path: Path, column: str = "text") -> list[str]:
    return list(documents(Text("file", 1, 8, 0, path=str(path), column=column)))


def read_items(path: Path) -> list[Item]:
    return items(Items("file", 1, 0, path=str(path)))


def test_the_parts_of_pydoc_share_no_paragraph(tokenizer: Any) -> None:
    calibration, heldout = (list(pydoc(part)) for part in sources.PARTS)
    holders = Counter(p for document in calibration + heldout for p in set(document.split("\n\n")))
    assert max(holders.values()) == 1, "every paragraph is in one document only"
    share = sum(map(len, heldout)) / sum(map(len, calibration + heldout))
    assert 0.1 < share < 0.4
    for seed in range(2):
        drawn = [Text("pydoc", 40, 64, seed, part=part).draw(tokenizer) for part in sources.PARTS]
        assert drawn[0].shared(drawn[1]) == 0


def test_the_parts_of_commonsense_share_no_item() -> None:
    calibration, heldout = (
        {item.key for item in items(Items("commonsense", 1, 0, part=part))} for part in sources.PARTS
    )
    assert not calibration & heldout
    assert len(calibration | heldout) == sum(len(embedded_items(part)) for part in sources.PARTS)
    assert abs(len(calibration) - len(heldout)) <= 1


def test_the_embedded_items_are_many_different_and_well_formed() -> None:
    path = Path(sources.__file__).parent.parent / "data" / "commonsense.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(records) >= 240
    assert all(set(record) == {"question", "choices", "answer"} for record in records)
    embedded = [item for part in sources.PARTS for item in embedded_items(part)]
    assert len({item.key for item in embedded}) == len(embedded) == len(records)
    embedded.sort(key=lambda item: [record["question"] for record in records].index(item.question))
    for item, record in zip(embedded, records, strict=True):
        assert 2 <= len(item.choices) <= 4
        assert len({choice.lower() for choice in item.choices}) == len(item.choices), item.question
        assert (item.question, list(item.choices), item.answer) == tuple(record.values())


SAME = [
    ("which  floats", ("A coin", "A cork")),
    ("WHICH FLOATS?!", ("a cork.", "a coin.")),
    ("Which floats?", ("A  cork", "A coin")),
]


@pytest.mark.parametrize(("question", "choices"), SAME)
def test_the_key_of_an_item_ignores_spacing_case_and_order(question: str, choices: tuple[str, ...]) -> None:
    item = Item("Which floats?", ("A cork", "A coin"), 0)
    assert Item(question, choices, 1).key == item.key
    assert Item("Which sinks?", item.choices, 0).key != item.key
    assert Item(item.question, ("A cork", "A cup"), 0).key != item.key


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.txt", "Größe", "", "two")) == ["Größe\n\ntwo"]


def test_a_jsonl_file_has_one_document_per_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", {"text": "one"}, "", {"text": "two", "body": "2"})
    assert read(path) == ["one", "two"]
    assert read(written(tmp_path, "b.jsonl", {"body": "three"}), column="body") == ["three"]


def test_json_is_read_whatever_the_case_of_its_ending_and_may_be_an_array(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.JSONL", {"text": "one"}, {"text": "two"})) == ["one", "two"]
    array = tmp_path / "b.json"
    array.write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=1), encoding="utf-8")
    assert read(array) == ["one", "two"]


def test_a_line_of_jsonl_ends_at_a_newline_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = "one\u2028still one\x85and on"  # JSON allows these characters unescaped, but str.splitlines splits at them
    path.write_text(
        json.dumps({"text": text}, ensure_ascii=False) + '\r\n{"text": "two"}\n', encoding="utf-8"
    )
    assert read(path) == [text, "two"]


def test_a_parquet_file_has_one_document_per_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pandas.DataFrame({"id": [1, 2], "body": ["one", "two"]}).to_parquet(path)
    assert read(path, column="body") == ["one", "two"]
    with pytest.raises(InputError, match=r"no column 'text': set calibration\.column to one of id, body"):
        read(path)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "a.txt", "at home")
    assert read(Path("~/a.txt")) == ["at home"]


@pytest.mark.parametrize("source", [Text("file", 1, 8, 0), Items("file", 1, 0), Items("file", 1, 0, path="")])
def test_a_file_source_needs_a_file(source: Text | Items) -> None:
    with pytest.raises(InputError, match=r"give calibration\.path=FILE"):
        source.draw(Numbers())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(
            InputError, match=r"calibration\.path=.*(no such file|a file is needed)"
        ) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    for reader in (read, read_items):
        with pytest.raises(InputError, match=r"empty\.jsonl: the file is empty"):
            reader(written(tmp_path, "empty.jsonl"))


@pytest.mark.parametrize("name", ["latin.txt", "latin.jsonl"])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"Gr\xf6\xdfe")
    with pytest.raises(InputError, match=rf"{name} is not UTF-8 text \(byte 2\)"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"text": ', "this is not JSON"),
        ({"body": "x"}, "the field 'text' must be text"),
        ({"text": 3}, "the field 'text' must be text"),
        ([1], "the field 'text' must be text"),
    ],
)
def test_a_malformed_line_of_text_is_named_by_its_number(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.jsonl, line 3: {message}"):
        read(written(tmp_path, "a.jsonl", {"text": "one"}, "", bad, {"text": "four"}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "this is not JSON"),
        ({"choices": ["a", "b"], "answer": 0}, "the field 'question' must be text"),
        ([], r"an item must be a JSON object, not \[\]"),
        (GOOD | {"choices": ["a"]}, "'choices' must list at least two texts"),
        (GOOD | {"choices": "ab"}, "'choices' must list at least two texts"),
        (
            GOOD | {"choices": ["a", ""]},
            "'choices' must list at least two texts, none of them empty",
        ),
        (GOOD | {"answer": 2}, "'answer' must be an index from 0 to 1, not 2"),
        (GOOD | {"answer": -1}, "'answer' must be an index from 0 to 1, not -1"),
        (GOOD | {"answer": "A cup"}, "'answer' must be .*, not 'A cup'"),
        (GOOD | {"answer": True}, "'answer' must be .*, not True"),
        ({"question": "?", "choices": ["a", "b"]}, "'answer' must be .*, not None"),
    ],
)
def test_a_malformed_item_is_named_by_its_line(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: {message}"):
        read_items(written(tmp_path, "a.jsonl", GOOD, bad, GOOD))


def test_items_with_equal_choices_are_left_out_of_a_calibration(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", GOOD, GOOD | {"question": "Same?", "choices": ["a", "a "]})
    assert [item.question for item in read_items(path)] == [GOOD["question"]]
    with pytest.raises(InputError, match="every item has equal choices"):
        read_items(written(tmp_path, "b.jsonl", GOOD | {"choices": ["a", "a "]}))


def test_half_of_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "right"}\n{"text": "a \\ud800 b"}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl, line 2: 'text' .*ud800"):
        read(path)
