"""The files of published masks: every entry has sources, fits its model, and keeps to what its source states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.core.errors import InputError
from pruning.published import library
from pruning.published.records import PAIRINGS, Entry

ENTRIES = library.entries()
PAPERS = {"evopress", "ours", "pudding", "quark", "shortened_llama", "shortgpt", "sleb"}


def test_every_paper_has_entries() -> None:
    assert (
        {entry.paper for entry in ENTRIES}
        == PAPERS
        == {p.stem for p in (library.FOLDER / "papers").iterdir()}
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_has_its_sources_and_as_many_blocks_as_they_state(entry: Entry) -> None:
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
        per_block = 1 if entry.mask.unit == "block" else 2
        assert len(entry.mask.dropped) == entry.stated * per_block
        if per_block == 2:
            assert sum(unit % 2 for unit in entry.mask.dropped) == entry.stated
    elif entry.mask.dropped:
        assert entry.paper == "ours", "every paper states how many blocks it removes"
    for number in entry.numbers:
        assert number.value > 1
        assert number.pairing in PAIRINGS
        assert number.pairing != "inferred" or entry.note or entry.paper == "sleb"
        assert number.theirs.protocol.harness


def test_masks_that_two_files_take_from_one_order_agree() -> None:
    """EvoPress prints ShortGPT's order; Prune&Comp's number at 7 blocks is compared with its first 7 blocks."""
    by_name = {entry.name: entry for entry in ENTRIES}
    seven, eight = (set(by_name[n].mask.dropped) for n in ("shortgpt-llama3-7", "evopress-llama3-shortgpt-8"))
    assert seven == set(range(22, 29))
    assert eight - seven == {29}
    assert set(by_name["shortened-llama3-taylor-7"].mask.dropped) == set(range(23, 30))
    assert set(by_name["shortgpt-llama2-9"].mask.dropped) == set(range(21, 30))


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
    root = Path(__file__).parents[2]
    pages = {name: (root / name).read_text(encoding="utf-8") for name in ("README.md", "docs/units.md")}
    ours = [entry for entry in ENTRIES if entry.paper == "ours"]
    assert len(ours) == 18
    for entry in ours:
        (number,) = entry.numbers
        page = pages[number.source.address]
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
    with pytest.raises(InputError, match=r"'slep'.*Did you mean sleb.*Papers and models: evopress.*dry_run"):
        library.chosen(["sleb", "slep"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": [3, 32]}, "bad.yaml, one: .*32"),
        ({"removed": "a3 x4"}, "bad.yaml, one: .*not a list of blocks"),
        ({"mask": "nowhere"}, "bad.yaml, one: 'nowhere'"),
        (
            {
                "numbers": [
                    {"corpus": "c4", "value": 9.0, "protocol": "p", "source": "s", "pairing": "inferred"}
                ]
            },
            "c4",
        ),
        (
            {
                "numbers": [
                    {"corpus": "wikitext2", "value": 9, "protocol": "p", "source": "s", "pairing": "guessed"}
                ]
            },
            "unknown pairing 'guessed'",
        ),
    ],
)
def test_a_mistake_in_a_file_names_file_and_entry(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    entry = {"name": "one", "model": "llama2_7b", "method": "m", "removed": [3], "mask": "s"} | change
    data = {
        "sources": {"s": {"address": "https://x", "place": "p", "read": "r"}},
        "protocols": {"p": {"corpus": "wikitext2", "window": 2048}},
        "entries": [entry],
    }
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=message):
        list(library._paper(path))


def test_what_a_source_does_not_state_is_unknown_and_all_means_no_limit() -> None:
    theirs = library.theirs(
        {"corpus": "c4", "path": "x", "dtype": None, "windows": "all", "documents": 5, "join": None}
    )
    assert theirs.unknown == ("dtype",)
    assert (theirs.protocol.windows, theirs.protocol.documents, theirs.protocol.join) == (None, 5, None)
