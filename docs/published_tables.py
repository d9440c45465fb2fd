"""The table of entries in docs/published.md, from the files of published masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from docs.marked_tables import Tables
from pruning.published.library import entries
from pruning.published.records import Entry


def listed() -> str:
    """One row for each paper and model, and below the table the sources of each paper."""
    head = ["| file | model | methods | masks | blocks removed | numbers |", "|" + "---|" * 6]
    groups = groupby(entries(), key=lambda entry: (entry.paper, entry.model.name))
    rows = [_row(list(part)) for _, part in _collected(groups)]
    papers = groupby(entries(), key=lambda entry: entry.paper)
    return "\n".join([*head, *rows, "", *(_sources(paper, list(part)) for paper, part in papers)])


def _collected(groups: Iterable[tuple[Any, Iterable[Entry]]]) -> list[tuple[Any, list[Entry]]]:
    """Groups with equal keys as one, although other groups are between them."""
    found: dict[Any, list[Entry]] = {}
    for key, part in groups:
        found.setdefault(key, []).extend(part)
    return list(found.items())


def _row(part: list[Entry]) -> str:
    masks = [entry for entry in part if entry.mask.dropped]
    methods = dict.fromkeys(entry.method.partition(" (")[0].partition(",")[0] for entry in masks)
    sizes = sorted({_blocks(entry) for entry in masks}, key=float)
    pairings = Counter(number.pairing.replace("_", " ") for entry in part for number in entry.numbers)
    numbers = ", ".join(f"{count} {pairing}" for pairing, count in pairings.items())
    model = f"{part[0].model.path}, {part[0].model.blocks} blocks"
    shown = (f"`{part[0].paper}`", model, ", ".join(methods), str(len(masks)), ", ".join(map(str, sizes)))
    return f"| {' | '.join(shown)} | {numbers or 'none'} |"


def _blocks(entry: Entry) -> str:
    """The number of removed blocks; of sub-layers, half of their number."""
    return f"{len(entry.mask.dropped) / (1 if entry.mask.unit == 'block' else 2):g}"


def _sources(paper: str, part: list[Entry]) -> str:
    """The places of a paper's masks and numbers, as an item of a list."""
    used = [source for e in part for source in (e.mask_source, *(number.source for number in e.numbers))]
    places = "; ".join(f"{source.address} ({source.place})" for source in dict.fromkeys(used))
    return f"- `{paper}`: {places}"


TABLES: Tables = {"entries": listed}
