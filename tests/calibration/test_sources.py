"""Where text and items come from: embedded data, local files, data sets of a hub, a dump of Wikipedia."""

from __future__ import annotations

import bz2
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pandas
import pytest

from pruning.calibration import file_of, files_of, sources
from pruning.calibration.item_files import Item
from pruning.calibration.items import Items
from pruning.calibration.sources import PARTED, PARTS, TextSource, embedded_items, pydoc
from pruning.calibration.text import Both, Mixed, Text
from pruning.core.errors import InputError, UnreachableError
from pruning.evaluation.corpora import Corpus, CorpusPerplexity
from pruning.evaluation.heldout import Heldout, LocalFiles
from pruning.evaluation.lm_eval_tasks import TextAndTasks, Zeroshot
from pruning.healing.heal_settings import Full
from tests.helpers.tokens import Numbers, written
from tests.helpers.wikipedia import use_dump

GOOD = {"question": "Which floats?", "choices": ["A cork", "A coin"], "answer": 0}


def read(path: Path, column: str = "text") -> list[str]:
    return list(TextSource("file", path=str(path), column=column).documents("calibration"))


def read_items(path: Path) -> list[Item]:
    return Items("file", 1, 0, path=str(path)).pool()


def test_every_class_of_settings_describes_its_source_in_the_same_fields() -> None:
    flat = {"path": "a/b", "name": "c", "split": "d", "column": "e", "revision": "f", "stream": True}
    wanted = TextSource("hub", **flat)
    for settings in (Text("hub", 1, 8, 3, **flat), Full(source="hub", seed=3, **flat)):
        assert TextSource.of(settings) == TextSource("hub", **flat, seed=3)
    assert Corpus("hub", **flat).text == TextSource("hub", **flat, part="heldout")
    assert (wanted.label, file_of(wanted)) == ("a/b/c/d", None)


def test_local_files_are_found_in_all_parts_of_settings() -> None:
    text, items = Text("file", 1, 8, 0, path="a.txt"), Items("file", 1, 0, path="b.jsonl")
    assert files_of(Both(text, items)) == files_of(Mixed(text, replace(text, path="b.jsonl"), 2, 8, 0))
    assert files_of(Both(text, items)) == ("a.txt", "b.jsonl")
    corpora = {"x": {"source": "file", "path": "c.txt"}, "y": {"path": "some/set"}}
    assert files_of(TextAndTasks(CorpusPerplexity(corpora), Zeroshot(["a"]))) == ("c.txt",)
    assert files_of(LocalFiles({"x": "d.txt"}, {"y": "e.jsonl"})) == ("d.txt", "e.jsonl")
    assert files_of(Heldout(texts=["novel"])) == files_of(Full()) == ()
    assert files_of(Full(source="file", path="f.txt")) == ("f.txt",)


# Embedded data.


def test_the_parts_of_pydoc_share_no_paragraph(tokenizer: Any) -> None:
    calibration, heldout = (list(pydoc(part)) for part in PARTS)
    holders = Counter(p for document in calibration + heldout for p in set(document.split("\n\n")))
    assert max(holders.values()) == 1, "every paragraph is in one document only"
    share = sum(map(len, heldout)) / sum(map(len, calibration + heldout))
    assert 0.1 < share < 0.4
    first, second = (Text("pydoc", 40, 64, 0, part=part).draw(tokenizer) for part in PARTS)
    assert first.shared(second) == 0


def test_the_embedded_source_is_all_embedded_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_dump(monkeypatch, tmp_path)
    for part in PARTS:
        alone = [one for name in PARTED for one in TextSource(name, part=part).documents("x")]
        assert list(TextSource("embedded", part=part).documents("x")) == alone


def test_the_embedded_items_are_many_different_and_well_formed() -> None:
    parts = [embedded_items(part) for part in PARTS]
    assert [Items("commonsense", 1, 0, part=part).pool() for part in PARTS] == parts
    embedded = [item for part in parts for item in part]
    assert len({item.key for item in embedded}) == len(embedded) >= 240
    for item in embedded:
        assert 2 <= len({choice.lower() for choice in item.choices}) == len(item.choices) <= 4, item.question


def test_the_key_of_an_item_ignores_spacing_case_and_order() -> None:
    item = Item("Which floats?", ("A cork", "A coin"), 0)
    for other in (
        Item("which  floats", ("A coin", "A  cork"), 1),
        Item("WHICH FLOATS?!", ("a coin.", "a cork"), 1),
    ):
        assert other.key == item.key
    assert Item("Which sinks?", item.choices, 0).key != item.key
    assert Item(item.question, ("A cork", "A cup"), 0).key != item.key


PROSE = "Anarchism is a political philosophy that is sceptical of authority, and rejects coercion &amp; hierarchy."
WIKITEXT = """{{Short description|A {{nested}} template}}
[[File:Flag.svg|thumb|A [[flag]] of some colours that is described in more than sixty characters]]
'''Anarchism''' is a [[political philosophy|philosophy]] of {{a|b {{c}} d}}[[authority]]<ref name=b /> and<!-- a
comment --> of ''hierarchy''<ref name="a">A source.</ref>, as [http://a.org the site] says &mdash; sixty characters.

== A heading that is long enough to be taken for a paragraph, were it not a heading ==
{| class="wikitable"
|-
| A cell of a table that is long enough to be taken for a paragraph, were it not in a table

And another paragraph of the same cell, which does not begin with a sign of the table either.
|}
* A point of a list that is long enough to be taken for a paragraph, were it not in a list
A short line.
[[Category:Anarchism]]
The sum is <math>a < b</math> known, <br /> and the paragraph has more than sixty characters in it.
"""


def test_wiki_markup_becomes_plain_paragraphs() -> None:
    assert sources.clean(WIKITEXT).split("\n\n") == [
        "Anarchism is a philosophy of authority and of hierarchy, as the site says — sixty characters.",
        "The sum is  known,  and the paragraph has more than sixty characters in it.",
    ]


def test_articles_are_prose_pages_and_their_parts_are_disjoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [*(f"Article {i}" for i in range(40)), "Wikipedia:Help", "Stub"]
    texts = {title: f"{title}. {PROSE}\n" * (1 if title == "Stub" else 20) for title in titles}
    pages = "".join(f"<page><title>{t}</title><text>{texts[t]}</text></page>" for t in titles)
    dump = tmp_path / "dump.xml.bz2"
    dump.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x">{pages}</mediawiki>'.encode()))
    monkeypatch.setattr(sources, "extract", lambda *_: dump)
    assert [title for title, _ in sources.articles()] == titles[:40]
    parts = [list(TextSource("wikipedia_sample", part=part).documents("x")) for part in PARTS]
    assert all(parts)
    assert len(set(parts[0]) | set(parts[1])) == len(parts[0]) + len(parts[1]) == 40


def test_the_novel_is_held_out_as_a_whole_and_nothing_can_be_calibrated_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "novel").write_text("Chapter I\n\n\nOne long\nline.\n\nTwo.\n\nChapter II\n\n\nThree.\n")
    monkeypatch.setattr(sources, "extract", lambda *_: tmp_path / "novel")
    assert list(sources.embedded_text("novel", "heldout")) == ["One long line.\n\nTwo.", "Three."]
    assert list(sources.embedded_text("novel", "calibration")) == []
    with pytest.raises(InputError, match=r"x\.source.*novel"):
        TextSource("novel").check("x")


# Local files.


def test_text_is_one_document_and_each_record_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "a.txt", "Größe", "", "two")
    assert read(Path("~/a.txt")) == ["Größe\n\ntwo"]
    lines = written(tmp_path, "a.JSONL", {"text": "one"}, "", {"text": "two", "body": "2"})
    assert read(lines) == ["one", "two"]
    assert read(written(tmp_path, "b.jsonl", {"body": "three"}), column="body") == ["three"]
    array = written(tmp_path, "b.json", json.dumps([{"text": "one"}, {"text": "two"}], indent=1))
    assert read(array) == ["one", "two"]
    odd = "one\u2028still one\x85and on"  # JSON allows these characters unescaped, but str.splitlines splits at them
    line = json.dumps({"text": odd}, ensure_ascii=False)
    (tmp_path / "odd.jsonl").write_text(f'{line}\r\n{{"text": "two"}}\n', encoding="utf-8")
    assert read(tmp_path / "odd.jsonl") == [odd, "two"]
    pandas.DataFrame({"id": [1, 2], "body": ["one", "two"]}).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", column="body") == ["one", "two"]
    with pytest.raises(InputError, match=r"'text'.*calibration\.column.*id, body"):
        read(tmp_path / "a.parquet")


def test_items_with_equal_choices_are_left_out_of_a_calibration(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", GOOD, GOOD | {"question": "Same?", "choices": ["a", "a "]})
    assert [item.question for item in read_items(path)] == [GOOD["question"]]
    with pytest.raises(InputError, match=r"b\.jsonl: .*equal"):
        read_items(written(tmp_path, "b.jsonl", GOOD | {"choices": ["a", "a "]}))


# Data sets of a hub.


class Stream:
    """An endless stand-in for what `datasets.load_dataset(streaming=True)` returns."""

    def __init__(self) -> None:
        self.shuffled: dict[str, int] = {}
        self.read = 0

    def shuffle(self, **settings: int) -> Stream:
        self.shuffled = settings
        return self

    def __iter__(self) -> Iterator[dict[str, str]]:
        for self.read in count(1):
            yield {"text": f"{2 * self.read} {2 * self.read + 1}"}


def test_a_stream_is_shuffled_with_the_seed_and_read_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream()
    load = Mock(return_value=stream)
    monkeypatch.setattr(datasets, "load_dataset", load)
    text = Text("hub", 3, 10, seed=7, path="allenai/c4", name="en", revision="abc", stream=True)
    samples = text.draw(Numbers())
    load.assert_called_once_with("allenai/c4", "en", split="train", revision="abc", streaming=True)
    assert stream.shuffled["seed"] == 7
    assert [row.input_ids[0] for row in samples.rows] == [2, 12, 22], "the first windows, in order"
    assert stream.read < 200


def test_windows_of_a_whole_data_set_are_drawn_without_shuffling(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"body": " ".join(map(str, range(i, i + 10)))} for i in range(0, 200, 10)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: records)
    draws = [Text("hub", 3, 10, seed, path="a/b", column="body").draw(Numbers()).rows for seed in (0, 1)]
    assert draws[0] != draws[1]
    with pytest.raises(InputError, match=r"calibration\.column=text.*a/b"):
        Text("hub", 3, 10, 0, path="a/b").draw(Numbers())


@pytest.mark.parametrize("error", [ConnectionError, ValueError, RuntimeError, FileNotFoundError])
@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (
            Text("hub", 1, 8, 0, path="a/b", name="en"),
            r"a/b/en .*calibration\.source=file calibration\.path=",
        ),
        (Items("commonsense170k", 1, 0, path="a/b"), r"a/b .*calibration\.path=FILE"),
    ],
)
def test_an_unreachable_data_set_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], source: Text | Items, advice: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no route\nto the host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UnreachableError, match=advice) as caught:
        source.draw(Numbers())
    assert "(no route)" in str(caught.value)
    assert "\n" not in str(caught.value)
