"""What explains the gap between a published number and the measurement in the one protocol; the table of all gaps."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import PruningError
from pruning.published.library import PAIRINGS, Protocol, PublishedNumber
from pruning.published.measure import FOLDER, GapRow, Measurement

VERDICTS = {
    "none": "the number is found in both protocols",
    "protocol": "the number is found in its own protocol, so the protocol explains the gap",
    "agrees": "the number is found in its own protocol; the one protocol does not have its text",
    "unexplained": "the number is not found in its own protocol",
    "not reproduced": "its own protocol cannot be followed here",
    "no number": "no source prints a number for this mask",
    "failed": "a measurement failed",
    "stand-in": "the model is a stand-in, so the numbers say nothing about the paper",
}

Values = Mapping[Measurement, float | PruningError]


@dataclass(frozen=True)
class AspectStep:
    """What one aspect of the protocol brings: its two values, and the factor on the perplexity."""

    aspect: str
    ours: str
    theirs: str
    factor: float


@dataclass(frozen=True)
class Explained:
    """A row with its measurements and the verdict; `text` says it in words."""

    row: GapRow
    one: float | None
    own: float | None
    verdict: str
    text: str
    steps: tuple[AspectStep, ...] = ()


def explained(
    rows: Sequence[GapRow], values: Values, tolerance: float, standin: bool = False
) -> list[Explained]:
    """Each row with its verdict. Two values agree if they differ by at most `tolerance` (relative) or by rounding."""
    # A paper's dense model, by its own protocol: whether it agrees says if the mask or the protocol is in doubt.
    dense = {(r.entry.paper, r.entry.model, r.own): r for r in reversed(rows) if not r.entry.mask.dropped}
    found = []
    for row in rows:
        errors = [v for request in row.requests() if isinstance(v := values[request], PruningError)]
        if errors:
            found.append(Explained(row, None, None, "failed", str(errors[0])))
            continue
        one, own = _value(row, row.one, values), _value(row, row.own, values)
        verdict = "stand-in" if standin and row.number is not None else _verdict(row, one, own, tolerance)
        steps = _steps(row, values)
        parts: list[str] = []
        if row.number is not None and verdict == "unexplained":
            assert own is not None
            whole = dense.get((row.entry.paper, row.entry.model, row.own))
            parts = [f"{_percent(own / row.number.value)} left", *_doubts(row, whole, values, tolerance)]
        elif row.number is not None and verdict == "not reproduced":
            parts = [str(row.number.theirs.not_reproduced)]
        elif verdict in ("no number", "stand-in", "none"):
            parts = [VERDICTS[verdict]]
        if row.number is not None and row.number.theirs.unknown and row.own is not None:
            parts.append(f"not stated, taken as ours: {', '.join(row.number.theirs.unknown)}")
        if steps and verdict != "none":
            parts.append("; ".join(f"{s.aspect} {s.ours} -> {s.theirs}: {_percent(s.factor)}" for s in steps))
        found.append(Explained(row, one, own, verdict, ". ".join(parts), steps))
    return found


def agrees(number: PublishedNumber, value: float | None, tolerance: float) -> bool:
    """Whether a measurement is the published number, within the tolerance or the rounding of its last digit."""
    if value is None:
        return False
    return abs(value - number.value) <= max(tolerance * number.value, number.rounding)


def _verdict(row: GapRow, one: float | None, own: float | None, tolerance: float) -> str:
    if row.number is None:
        return "no number"
    if row.own is None:
        return "not reproduced"
    if not agrees(row.number, own, tolerance):
        return "unexplained"
    if one is None:
        return "agrees"
    return "none" if agrees(row.number, one, tolerance) else "protocol"


def _value(row: GapRow, protocol: Protocol | None, values: Values) -> float | None:
    """What was measured in a protocol of a row; None if there is no such protocol, or if that failed."""
    value = None if protocol is None else values[row.request(protocol)]
    return value if isinstance(value, float) else None


def _steps(row: GapRow, values: Values) -> tuple[AspectStep, ...]:
    """What each aspect brings, along the path from the one protocol to theirs. The factors multiply to own / one."""
    steps, before = [], row.one
    for aspect, protocol in row.steps:
        assert before is not None
        known, value = _value(row, before, values), _value(row, protocol, values)
        assert known is not None
        assert value is not None
        step = AspectStep(aspect, before.described(aspect), protocol.described(aspect), value / known)
        steps.append(step)
        before = protocol
    return tuple(steps)


def _doubts(row: GapRow, dense: GapRow | None, values: Values, tolerance: float) -> list[str]:
    """What can be at fault: the protocol or the weights if the dense model differs, too; else the mask."""
    assert row.number is not None
    doubts = []
    if dense is not None and dense.number is not None and row.entry.mask.dropped:
        value = _value(dense, dense.own, values)
        if value is None:
            doubts.append("the dense model could not be measured")
        elif agrees(dense.number, value, tolerance):
            doubts.append("the dense model agrees, so the mask is in doubt, not the protocol")
        else:
            doubts.append(f"the dense model differs, too, by {_percent(value / dense.number.value)}")
    if row.number.pairing == "inferred":
        doubts.append(PAIRINGS["inferred"])
    return doubts


def _percent(factor: float) -> str:
    """A factor as a change: `+3.2 %`; a large one as a factor: `x 40`."""
    return f"x {factor:,.3g}" if factor >= 2 else f"{100 * (factor - 1):+.2f} %"


# The table, as rows of text and as files

COLUMNS = (
    *("mask", "model", "removed", "text", "published"),
    *("ours, one protocol", "ours, theirs", "verdict", "why"),
)
CSV, JSON = "table.csv", "table.json"


def shown(found: Sequence[Explained]) -> list[tuple[str, ...]]:
    """The rows of the table, as text."""
    lines = []
    for one in found:
        entry, number = one.row.entry, one.row.number
        names = (entry.name, entry.model.name, " ".join(entry.mask.names()) or "nothing", one.row.corpus)
        values = (None if number is None else number.value, one.one, one.own)
        lines.append((*names, *map(_number, values), one.verdict, one.text))
    return lines


def _number(value: float | None) -> str:
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
        "mask_source": asdict(row.entry.mask_source),
        "text": row.corpus,
        "published": None if number is None else number.value,
        "number_source": None if number is None else asdict(number.source),
        "pairing": None if number is None else number.pairing,
        "not_stated": [] if number is None else list(number.theirs.unknown),
        "one": one.one,
        "one_protocol": None if row.one is None else asdict(row.one),
        "own": one.own,
        "own_protocol": None if row.own is None else asdict(row.own),
        "steps": [asdict(step) for step in one.steps],
        "verdict": one.verdict,
        "why": one.text,
        "note": row.entry.note,
    }


def write(results: Path, found: Sequence[Explained], tolerance: float) -> Path:
    """Write table.json and table.csv; returns the folder."""
    folder = results / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_json(folder / JSON, {"tolerance": tolerance, "rows": [record(one) for one in found]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *shown(found)])
    storage.write_bytes(folder / CSV, text.getvalue().encode())
    return folder
