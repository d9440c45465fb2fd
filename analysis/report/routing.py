"""The report's part about sets for tasks: sentences about routing, and a table of policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .phrasing import sentence
from .study_data import StudyData
from .table_cells import Built, Value, numeric, word

HEADING = "Sets for tasks"
POLICIES = ("dense", "static", "own", "random", "router", "likeliest", "oracle")


def sentences(m: StudyData) -> Iterator[str]:
    """What routing gains in each group of cells, and whether the oracle's gain is more than chance."""
    for record in m.routing:
        gains = {name: points(record["policies"][name]["gain"]) for name in ("router", "own", "oracle")}
        parts = [
            f"{named(record)}: accuracy against the best static set, in points: the router {gains['router']}, the "
            f"set of the prompt's task {gains['own']}, the oracle {gains['oracle']}"
        ]
        if (oracle := record.get("oracle")) is not None:
            parts.append(f"{points(oracle['surviving'])} of the oracle's gain survive a second wording")
            parts.append(f"{oracle['verdict']}".replace(": ", ", "))
        yield sentence(parts)


def table(m: StudyData) -> Built:
    """A row for each group of cells and policy: accuracy, gain over the static set, margin."""
    headings = [("cells", False), ("policy", False), ("accuracy, %", True), ("95 percent interval", False)]
    headings += [("gain over static, points", True), ("95 percent interval", False), ("margin", True)]
    rows = []
    for record in m.routing:
        for name in POLICIES:
            policy = record["policies"][name]
            rows.append(
                [word(named(record)), word(name), *_values(policy), numeric(policy["margin"], "{:.3f}")]
            )
    return headings, rows


def _values(policy: Mapping[str, Any]) -> Iterator[Value]:
    for name, form in (("accuracy", "{:.1f}"), ("gain", "{:+.1f}")):
        found = policy[name]
        yield numeric(100 * found["value"], form)
        yield word(f"{100 * found['low']:.1f} to {100 * found['high']:.1f}")


def named(record: Mapping[str, Any]) -> str:
    """The cells of a record in a few words."""
    size = f"k={record['k']}" if record["ratio"] is None else f"{record['ratio']:g}"
    unit = "" if record["unit"] == "block" else f" {record['unit']}"
    return f"{record['model']} {record['objective']} {record['algo']} {size}{unit}"


def points(found: Mapping[str, float]) -> str:
    """`+1.2 (-0.3 to 2.6)`, in percentage points."""
    return f"{100 * found['value']:+.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
