"""What to measure: for each published number a row, and for each row the measurements that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pruning.core.mask import Mask
from pruning.published.protocol import Protocol
from pruning.published.records import Entry, ModelFacts, Number


@dataclass(frozen=True)
class Request:
    """One measurement: a mask of a model in a protocol; `corpus` names the text, for people to read."""

    model: ModelFacts
    corpus: str
    protocol: Protocol
    mask: Mask


@dataclass(frozen=True)
class Row:
    """A published number of a mask, the one protocol, their protocol, and the steps from the one to the other.

    `number` is None if no source prints a number; `one` is None if the one protocol does not have the number's text;
    `own` is None if the number's protocol cannot be followed. Each step is the name of an aspect and a protocol.
    """

    entry: Entry
    corpus: str
    number: Number | None
    one: Protocol | None
    own: Protocol | None
    steps: tuple[tuple[str, Protocol], ...] = ()

    def protocols(self) -> Iterator[Protocol]:
        """All protocols in which this row's mask is measured."""
        yield from dict.fromkeys(
            p for p in (self.one, *(p for _, p in self.steps), self.own) if p is not None
        )

    def requests(self) -> Iterator[Request]:
        """The measurements of this row."""
        for protocol in self.protocols():
            yield Request(self.entry.model, self.corpus, protocol, self.entry.mask)


def rows(entries: Sequence[Entry], one: Mapping[str, Protocol], steps: bool = True) -> list[Row]:
    """The rows of entries; `one` is the one protocol of each text. Without `steps`, no aspect is changed alone."""
    return [row for entry in entries for row in _rows(entry, one, steps)]


def _rows(entry: Entry, one: Mapping[str, Protocol], steps: bool) -> Iterator[Row]:
    for number in entry.numbers:
        ours = one.get(number.theirs.corpus)
        own = _own(number, ours)
        path = tuple(ours.path_to(own)) if steps and ours is not None and own is not None else ()
        yield Row(entry, number.theirs.corpus, number, ours, own, path)
    if not entry.numbers and one:
        corpus, protocol = next(iter(one.items()))
        yield Row(entry, corpus, None, protocol, None)


def _own(number: Number, one: Protocol | None) -> Protocol | None:
    """A number's protocol; settings that its source does not state are those of the one protocol."""
    theirs = number.theirs
    if theirs.not_reproduced is not None:
        return None
    if one is None:
        return theirs.protocol
    return replace(theirs.protocol, **{name: getattr(one, name) for name in theirs.unknown})


def standing_in(rows: Sequence[Row], model: ModelFacts, text: Protocol) -> tuple[list[Row], list[Entry]]:
    """The rows on a stand-in and on one text for all; and the entries whose models have another number of blocks."""
    fits = [row for row in rows if row.entry.model.blocks == model.blocks]
    others = {row.entry.name: row.entry for row in rows if row.entry.model.blocks != model.blocks}
    return [_on(row, model, text) for row in fits], list(others.values())


def _on(row: Row, model: ModelFacts, text: Protocol) -> Row:
    one = None if row.one is None else row.one.on(text)
    own = None if row.own is None else row.own.on(text)
    path = tuple(one.path_to(own)) if row.steps and one is not None and own is not None else ()
    return replace(row, entry=replace(row.entry, model=model), one=one, own=own, steps=path)


def on_file(row: Row, file: str) -> Row:
    """The row on a local file in place of its text; how documents are joined and cut stays as it is."""
    here: dict[str, Any] = {"source": "file", "path": file, "stream": False}
    here |= {"name": None, "split": "test", "revision": None}

    def moved(protocol: Protocol | None) -> Protocol | None:
        return None if protocol is None else replace(protocol, **here)

    one, own = moved(row.one), moved(row.own)
    path = tuple(one.path_to(own)) if row.steps and one is not None and own is not None else ()
    return replace(row, one=one, own=own, steps=path)


def requests(rows: Sequence[Row]) -> list[Request]:
    """The distinct measurements of all rows; those of one model and precision are adjacent."""
    distinct = dict.fromkeys(request for row in rows for request in row.requests())
    models = {name: i for i, name in enumerate(dict.fromkeys(request.model.name for request in distinct))}
    return sorted(
        distinct, key=lambda r: (models[r.model.name], r.protocol.dtype != "bfloat16", r.protocol.dtype)
    )
