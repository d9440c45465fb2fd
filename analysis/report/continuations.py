"""A table of what the dense and the smaller models wrote after the same prompts, for the entry of a cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pruning.core.continuation_record import METRIC, SHOWN, read_continuations
from pruning.core.errors import PruningError
from pruning.core.result import MODELS, DoneResult, Kind

WORDS: dict[Kind, str] = {
    "dense": "nothing removed",
    "pruned": "pruned",
    "uncompensated": "without compensation",
    "healed": "healed",
}


@dataclass(frozen=True)
class ContinuationTable:
    """Headings and rows of text; one row per prompt. `note` says why there are no rows."""

    heads: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""


def continuations(results: Path, record: DoneResult) -> ContinuationTable | None:
    """The first prompts of a cell with each model's greedy continuation; None if none were measured."""
    paths = record["evaluation"].get("records", {}).get(METRIC)
    if paths is None:
        return None
    columns: dict[str, list[str]] = {}
    for which in (kind for kind in MODELS if kind in paths):
        try:
            kept = read_continuations(results / paths[which])
        except (PruningError, OSError) as error:
            return ContinuationTable(note=str(error))
        if kept is not None:
            columns |= {"prompt": kept["prompts"], WORDS[which]: kept["texts"]}
    if len(columns) < 2:
        return ContinuationTable(note="The files of the continuations are not in the results folder.")
    rows = list(zip(*columns.values(), strict=True))[:SHOWN]
    return ContinuationTable(list(columns), rows)
