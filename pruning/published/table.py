"""The table "published, ours in one protocol, ours in their protocol, what explains the gap", as rows and files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.published.explain import Explained
from pruning.published.measure import FOLDER

COLUMNS = (
    "mask",
    "model",
    "removed",
    "text",
    "published",
    "ours, one protocol",
    "ours, theirs",
    "verdict",
    "why",
)
CSV, JSON = "table.csv", "table.json"


def shown(found: Sequence[Explained]) -> list[tuple[str, ...]]:
    """The rows of the table, as text."""
    return [_shown(one) for one in found]


def _shown(one: Explained) -> tuple[str, ...]:
    row = one.row
    return (
        row.entry.name,
        row.entry.model.name,
        " ".join(row.entry.mask.names()) or "nothing",
        row.corpus,
        "-" if row.number is None else _value(row.number.value),
        _value(one.one),
        _value(one.own),
        one.verdict,
        one.text,
    )


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def record(one: Explained) -> dict[str, Any]:
    """A row with everything that it was made from: sources, protocols, measurements, steps."""
    row, number = one.row, one.row.number
    return {
        "mask": row.entry.name,
        "paper": row.entry.paper,
        "method": row.entry.method,
        "model": row.entry.model.name,
        "removed": row.entry.mask.listed(),
        "mask_source": dataclasses.asdict(row.entry.mask_source),
        "text": row.corpus,
        "published": None if number is None else number.value,
        "number_source": None if number is None else dataclasses.asdict(number.source),
        "pairing": None if number is None else number.pairing,
        "not_stated": [] if number is None else list(number.theirs.unknown),
        "one": one.one,
        "one_protocol": None if row.one is None else dataclasses.asdict(row.one),
        "own": one.own,
        "own_protocol": None if row.own is None else dataclasses.asdict(row.own),
        "steps": [dataclasses.asdict(step) for step in one.steps],
        "verdict": one.verdict,
        "why": one.text,
        "note": row.entry.note,
    }


def write(results: Path, found: Sequence[Explained], tolerance: float) -> Path:
    """Write table.json and table.csv; returns the folder."""
    folder = results / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    records = [record(one) for one in found]
    atomic_files.write_json(folder / JSON, {"tolerance": tolerance, "rows": records})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(shown(found))
    atomic_files.write_bytes(folder / CSV, text.getvalue().encode())
    return folder
