"""The files of published masks: every entry has sources, fits its model, and keeps to what its source states."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning.core.errors import InputError
from pruning.published import library
from pruning.published.library import PAIRINGS, Entry

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
        ({"mask": "nowhere"}, r"bad\.yaml, one: mask='nowhere'"),
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
            r"bad\.yaml, one: numbers\[0\]\.pairing='guessed'",
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


Place = tuple[Any, ...]
HOSTILE = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -2.5,
    10**400,
    True,
    [],
    {},
    [1],
    {"a": 1},
    None,
    "",
    "no name of anything",
]
NULLABLE = (
    "arxiv",
    "join",
)  # besides the settings of a protocol, of which null says that the source is silent
FREE = (
    "title",
    "numbering",
    "address",
    "place",
    "read",
    "harness",
    "not_reproduced",
    "note",
    "method",
    "arxiv",
)
FREE += ("path", "name", "split", "join")  # any text will do


def scalars(data: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield (place, value) of each value in a file, lists and mappings included."""
    if path:
        yield path, data
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in items:
        yield from scalars(value, (*path, name))


def edited(data: Any, path: Place, value: Any) -> Any:
    copied = copy.deepcopy(data)
    inner = copied
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copied


def may_be(path: Place, old: Any, new: Any) -> bool:
    """Whether an edit leaves a file right."""
    name, in_protocol = path[-1], path[0] == "protocols" and len(path) == 3
    if new is None:
        return name in NULLABLE or (
            in_protocol and name not in ("corpus", "stated", "not_reproduced", "from")
        )
    if isinstance(new, str):
        return (name in FREE or (in_protocol and name in ("stated", "corpus"))) and (
            bool(new) or name == "join"
        )
    if new == [] and not isinstance(new, str):
        return name in ("entries", "numbers", "removed")
    if name == "stated" and new == {}:
        return False
    if new is True:
        return in_protocol and name in ("stream", "tail")
    return name == "removed" and new == [1]


@pytest.mark.parametrize("paper", ["sleb", "quark", "ours"])
def test_any_edit_of_a_file_is_right_or_refused_with_its_place(
    paper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library.FOLDER / "papers" / f"{paper}.yaml"
    data = library._read(path)
    data["entries"] = data["entries"][:3]
    models = library.models()
    monkeypatch.setattr(library, "models", lambda: models)
    for place, old in scalars(data):
        for new in HOSTILE:
            if type(old) is type(new) and old == new:
                continue
            monkeypatch.setattr(library, "_read", lambda _, new=new, place=place: edited(data, place, new))
            if may_be(place, old, new):
                with contextlib.suppress(InputError):  # such as a name that another part of the file uses
                    list(library._paper(path))
                continue
            with pytest.raises(InputError) as error:
                list(library._paper(path))
            assert str(error.value).startswith(f"{path.name}, "), (place, new)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("entries", 0, "numbers", 0, "value"), math.nan),
        (("entries", 0, "numbers", 0, "value"), -5.0),
        (("entries", 1, "removed"), [3, 3]),
        (("entries", 1, "removed"), "b3 a3"),
        (("entries", 1, "removed"), [-1]),
        (("protocols", "p", "window"), -2048),
        (("protocols", "p", "windows"), "some"),
        (("protocols", "p", "dtype"), "float8"),
        (("entries", 1, "stated"), {"blocks": -1}),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_field(
    place: Place, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = {"corpus": "c4", "value": 9.0, "protocol": "p", "source": "s", "pairing": "inferred"}
    entry = {
        "name": "one",
        "model": "llama2_7b",
        "method": "m",
        "removed": [3],
        "mask": "s",
        "numbers": [number],
    }
    data = {
        "sources": {"s": {"address": "https://x", "place": "p", "read": "r"}},
        "protocols": {"p": {"corpus": "c4", "window": 2048}},
        "entries": [entry, {**entry, "name": "two", "stated": {"blocks": 1}}],
    }
    wrong: Any = edited(data, place, value)
    monkeypatch.setattr(library, "_read", lambda _: wrong)
    with pytest.raises(InputError) as error:
        list(library._paper(Path("paper.yaml")))
    text = str(error.value)
    assert text.startswith("paper.yaml, ")
    assert str(place[-1]) in text
    assert str(next(iter(value.values())) if isinstance(value, dict) else value) in text


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: 1\na: 2\n", "- 1\n", "", "sources: {s: {address: a, address: b}}", "a: 2026-13-45\n"],
)
def test_a_file_that_is_no_paper_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^bad\.yaml"):
        list(library._paper(tmp_path / "bad.yaml"))


def test_a_number_or_an_entry_that_is_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = library._read(library.FOLDER / "papers" / "quark.yaml")
    data["entries"][0]["numbers"] *= 2
    monkeypatch.setattr(library, "_read", lambda _: data)
    with pytest.raises(InputError, match="twice"):
        list(library._paper(Path("paper.yaml")))
    data["entries"][0]["numbers"] = data["entries"][0]["numbers"][:1]
    data["entries"].append(data["entries"][0])
    with pytest.raises(InputError, match=data["entries"][0]["name"]):
        list(library._paper(Path("paper.yaml")))
