"""Sources of samples: data that come with this program or with Python, local files, and data sets of a hub.

Embedded sources have two parts, `calibration` and `heldout`. No document is in both parts, whatever the seed.
"""

from __future__ import annotations

import bz2
import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from pruning.calibration.item_files import (
    Item,
    Source,
    TextSource,
    comparable_items,
    existing,
    hub_errors,
    json_records,
    read_items,
    read_text,
    text_field,
)
from pruning.core.errors import InputError, UnreachableError, first_line, unknown
from pruning.core.wheels import Wheel, check_no_folder, extract, use_hub

PARTED = ("pydoc", "wikipedia_sample")  # embedded texts; `embedded` is all of them together
EMBEDDED = (*PARTED, "embedded")
TEXTS = (*EMBEDDED, "file", "hub")
ITEMS = ("commonsense", "file", "commonsense170k")
PARTS = ("calibration", "heldout")
HELDOUT_SHARE = 0.25  # fraction of an embedded text's documents in the part `heldout`


def check_source(settings: Source, kind: str, known: Iterable[str]) -> None:
    """Raise InputError if the source or part is unknown, or if a hub source names no data set."""
    if settings.source not in known:
        raise unknown(f"source of {kind}", settings.source, known)
    if settings.part not in PARTS:
        raise unknown("calibration.part", settings.part, PARTS)
    check_named(settings.source, settings.path, "calibration")


def check_named(source: str, path: str | None, prefix: str) -> None:
    """Raise InputError if a hub source names no data set."""
    if source == "hub" and not path:
        raise InputError(f"{prefix}.path is not set: give the name of a data set, {prefix}.path=NAME.")


def check_path(source: str, path: str | None, prefix: str) -> None:
    """Raise InputError if a path is given that the source does not read.

    This is checked when samples are drawn, so that a recorded configuration with such a path can still be read.
    """
    if path and source in (*EMBEDDED, "commonsense"):
        raise InputError(
            f"{prefix}.path={path} is not read with {prefix}.source={source}: give {prefix}.source=file as well, or "
            "leave the path out."
        )


def documents(text: TextSource, prefix: str = "calibration") -> Iterator[str]:
    """The documents of a text source, in order. If a data set is streamed, the seed determines the order.

    Error messages put `prefix`, the settings group, before a setting's name.
    Raises InputError if the source is malformed, UnreachableError if a data set cannot be reached.
    """
    check_path(text.source, text.path, prefix)
    if text.source == "embedded":
        return chain.from_iterable(embedded_text(name, text.part) for name in PARTED)
    if text.source in PARTED:
        return embedded_text(text.source, text.part)
    if text.source == "file":
        return _file_documents(existing(text.path, f"{prefix}.path"), text.column, f"{prefix}.column")
    return _hub_documents(text, prefix)


def items(settings: Source, prefix: str = "calibration") -> list[Item]:
    """All items of a source. Raises InputError, which names the line, if an item is malformed."""
    check_path(settings.source, settings.path, prefix)
    if settings.source == "commonsense":
        return embedded_items(settings.part)
    if settings.source == "file":
        return comparable_items(existing(settings.path, f"{prefix}.path"))
    from pruning.calibration.item_files import load

    return load(settings, prefix)


def embedded_text(name: str, part: str) -> Iterator[str]:
    """The documents of one part of an embedded text. Raises UnreachableError if it cannot be fetched."""
    if name == "pydoc":
        return pydoc(part)

    return _part(articles(), part)


def pydoc(part: str) -> Iterator[str]:
    """The Python language reference that comes with Python, without repeated paragraphs."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    whole: list[tuple[str, str]] = []
    for topic in sorted(topics):
        paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", topics[topic])]
        fresh = [p for p in paragraphs if p and p not in seen]
        seen.update(fresh)
        whole.append((topic, "\n\n".join(fresh)))
    return _part(whole, part)


def embedded_items(part: str) -> list[Item]:
    """One part of the multiple-choice items written for this project (Apache-2.0).

    The lines alternate between the two parts, so that both parts contain every topic of the file.
    """
    path = Path(str(resources.files("pruning") / "data" / "commonsense.jsonl"))
    return read_items(path)[PARTS.index(part) :: 2]


def _part(named: Iterable[tuple[str, str]], part: str) -> Iterator[str]:
    """The documents of one part. A digest of a document's name decides its part, whatever the seed."""
    for name, document in named:
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        if document and (share < HELDOUT_SHARE) == (part == "heldout"):
            yield document


def _file_documents(path: Path, column: str, setting: str) -> Iterator[str]:
    kind = path.suffix.lower()
    if kind in (".json", ".jsonl"):
        for where, record in json_records(path):
            yield text_field(record, column, where)
    elif kind == ".parquet":
        import pandas

        try:
            frame = pandas.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow raises a ValueError
            raise InputError(f"{path} is not a parquet file ({first_line(error)}).") from error
        if column not in frame:
            raise InputError(
                f"{path} has no column '{column}': set {setting} to one of {', '.join(map(str, frame))}."
            )
        yield from map(str, frame[column].dropna())
    else:
        yield read_text(path)


def _hub_documents(text: TextSource, prefix: str) -> Iterator[str]:
    import datasets

    check_no_folder(str(text.path), f"{prefix}.path")
    use_hub()
    name = f"{text.path}{'/' + text.name if text.name else ''}"
    try:
        data = datasets.load_dataset(
            text.path, text.name, split=text.split, revision=text.revision, streaming=text.stream
        )
        if text.stream:
            data = data.shuffle(seed=text.seed, buffer_size=10_000)
        for record in data:
            if record[text.column]:
                yield record[text.column]
    except hub_errors() as error:
        raise UnreachableError(
            f"the data set {name} cannot be read ({first_line(error)}): check its name and the network, "
            "or use local text: calibration=text_file calibration.path=FILE."
        ) from error
    except KeyError as error:
        raise InputError(
            f"the data set {name} has no column '{text.column}': set {prefix}.column."
        ) from error


# A sample of the English Wikipedia from the gensim wheel: 206 pages, 97 of them prose (CC BY-SA).
#
# The wheel is downloaded and unzipped on first use. gensim itself is never installed or imported.

WHEEL = Wheel(
    requirement="gensim==4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
)
SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
MINIMUM = 1000  # a page with fewer characters of prose is a redirect, a list or a stub


def articles() -> Iterator[tuple[str, str]]:
    """Yield the title and prose of each article, in the order of the dump."""
    path = extract([WHEEL], "wikipedia_sample.xml.bz2", SHA256)
    with bz2.open(path) as stream:
        title = ""
        for _, element in ElementTree.iterparse(stream):
            tag = element.tag.rpartition("}")[2]
            if tag == "title":
                title = element.text or ""
            elif tag == "text" and ":" not in title:
                prose = clean(element.text or "")
                if len(prose) >= MINIMUM:
                    yield title, prose


def clean(wikitext: str) -> str:
    """Convert wiki markup to paragraphs: keep link texts; drop templates, tables, references, headings and lists."""
    text = re.sub(r"<!--.*?-->", "", wikitext, flags=re.S)
    text = re.sub(r"<ref[^>]*/>|<(ref|math|gallery|timeline|source)\b.*?</\1>", "", text, flags=re.S | re.I)
    for opening, closing in (("{{", "}}"), ("{|", "|}")):
        text = _without_nested(text, opening, closing)
    text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>|'{2,}", "", text)
    text = html.unescape(text)
    lines = (line.strip() for line in text.splitlines())
    return "\n\n".join(line for line in lines if len(line) > 60 and line[0] not in "*#:;=|!{}")


def _without_nested(text: str, opening: str, closing: str) -> str:
    depth, kept = 0, []
    for piece in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if piece == opening:
            depth += 1
        elif piece == closing:
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(piece)
    return "".join(kept)
