"""The files of published masks, which keep to what their sources state, and their protocols."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.calibration.sources import TEXTS
from pruning.core.errors import InputError
from pruning.evaluation.corpora import Corpus
from pruning.evaluation.heldout import Heldout
from pruning.models.handle import DTYPES
from pruning.published import library
from pruning.published.library import PAIRINGS, Protocol, PublishedMask
from tests.helpers.tokens import with_bos

ENTRIES = library.entries()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_has_its_sources_and_as_many_blocks_as_they_state(entry: PublishedMask) -> None:
    for source in [entry.mask_source, *(number.source for number in entry.numbers)]:
        assert source.address.startswith("https://") or (
            entry.paper == "ours" and source.address.endswith(".md")
        )
        assert source.place
        assert source.read
    assert entry.mask.n_blocks == entry.model.blocks
    assert (entry.method == "dense") == (not entry.mask.dropped)
    if entry.stated is not None:
        # EvoPress removes as many attentions as MLPs, and counts them as so many blocks.
        assert len(entry.mask.dropped) == entry.stated * entry.mask.n_units / entry.mask.n_blocks
    elif entry.mask.dropped:
        assert entry.paper == "ours", "every paper states how many blocks it removes"
    for number in entry.numbers:
        assert 1 < number.value < math.inf
        assert number.pairing in PAIRINGS
        assert number.pairing != "inferred" or entry.note or entry.paper == "sleb"
        protocol = number.theirs.protocol
        assert protocol.harness
        assert (protocol.source in TEXTS, protocol.dtype in DTYPES) == (True, True)
        protocol.check(entry.name)


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    values = {(e.name, n.theirs.corpus): n.value for e in ENTRIES for n in e.numbers}
    assert values["evopress-llama2-8", "wikitext2"] == 9.15
    assert values["evopress-llama3.1-shortened-8", "c4"] == 20.33
    assert values["sleb-llama2-7-march13", "c4"] == 12.32
    assert values["shortgpt-llama3-7", "wikitext2"] == 57.76
    assert values["shortened-llama3-taylor-7", "wikitext2"] == 2287.86
    assert values["quark-qwen2.5-5", "wikitext2"] == 7.0681


def test_our_own_numbers_are_those_of_the_pages() -> None:
    """A page that changes must change the file, and the other way round."""
    page = (Path(__file__).parents[2] / "docs/measured.md").read_text(encoding="utf-8")
    ours = [entry for entry in ENTRIES if entry.paper == "ours"]
    assert len(ours) == 18
    for entry in ours:
        (number,) = entry.numbers
        assert number.source.address == "docs/measured.md"
        value = f"{number.value:,.2f}"
        if not entry.mask.dropped:
            assert value in page
            continue
        blocks = " ".join(entry.mask.names())
        assert any(f"| {blocks} |" in line and value in line for line in page.splitlines()), entry.name


@pytest.mark.parametrize(
    ("only", "count"),
    [(["sleb"], 3), (["smollm2", "sleb"], 16), (["pudding-mathqa"], 1), (None, len(ENTRIES))],
)
def test_entries_are_chosen_by_paper_model_or_name(only: list[str] | None, count: int) -> None:
    assert len(library.chosen(only)) == count


def test_an_unknown_name_is_refused_with_similar_ones() -> None:
    with pytest.raises(InputError, match=r"'slep'.* sleb"):
        library.chosen(["sleb", "slep"])


def test_what_a_source_does_not_state_is_unknown_and_all_means_no_limit() -> None:
    theirs = library.theirs("c4", path="x", dtype=None, windows="all", documents=5, join=None)
    assert theirs.unknown == ("dtype",)
    assert (theirs.protocol.windows, theirs.protocol.documents, theirs.protocol.join) == (None, 5, None)


@pytest.mark.parametrize("path", sorted(library.FOLDER.glob("papers/*.yaml")), ids=lambda path: path.stem)
def test_nothing_in_a_file_is_given_twice_or_contradicts_itself(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len({raw["name"] for raw in data["entries"]}) == len(data["entries"])
    for raw in data["entries"]:
        words = raw["removed"].split() if isinstance(raw["removed"], str) else raw["removed"]
        assert len(set(words)) == len(words)
        numbers = raw.get("numbers", ())
        assert len({(one["corpus"], one["value"], one["protocol"]) for one in numbers}) == len(numbers)
        for one in numbers:
            assert data["protocols"][one["protocol"]]["corpus"] == one["corpus"]


# -- protocols -----------------------------------------------------------------------------------------------

ONE = Protocol(path="Salesforce/wikitext", name="wikitext-2-raw-v1")


def test_settings_that_change_nothing_make_no_difference() -> None:
    assert Protocol(window=64, stride=64) == Protocol(window=64)
    assert Protocol(drawn=4, stride=8, start="none", tail=False) == Protocol(drawn=4)
    assert Protocol(harness="a") == Protocol(harness="b")


def test_the_settings_that_differ_are_listed() -> None:
    other = replace(ONE, window=512, dtype="float16", harness="other")
    assert ONE.differences(other) == "window 2048 -> 512, dtype bfloat16 -> float16"
    assert ONE.differences(replace(ONE, harness="other")) == ""


def test_a_protocol_draws_what_its_corpus_draws(tokenizer: Any) -> None:
    corpus = Corpus("pydoc", window=64, windows=3, start="none", tail=False)
    protocol = Protocol(**asdict(corpus), dtype="float32")
    assert protocol.draw(tokenizer, "here").rows == corpus.draw(tokenizer, "here").rows
    assert protocol.draw(tokenizer, "here", 2).count == 2


def test_drawn_windows_are_those_of_the_held_out_evaluation(tokenizer: Any) -> None:
    tokenizer = with_bos(tokenizer)
    (drawn, *_) = Heldout(samples=4, length=64).data(tokenizer).values()
    protocol = Protocol(source="pydoc", drawn=4, window=64)
    assert protocol.draw(tokenizer, "here").sha256 == drawn.sha256
