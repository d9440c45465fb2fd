"""What explains the gap between a published number and the measurement in the one protocol."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import PruningError
from pruning.published.library import PAIRINGS, Number
from pruning.published.measure import FOLDER, Request, Row

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

Values = Mapping[Request, float | PruningError]


@dataclass(frozen=True)
class Step:
    """What one aspect of the protocol brings: its two values, and the factor on the perplexity."""

    aspect: str
    ours: str
    theirs: str
    factor: float


@dataclass(frozen=True)
class Explained:
    """A row with its measurements and the verdict; `text` says it in words. `left` is ln(own / published)."""

    row: Row
    one: float | None
    own: float | None
    verdict: str
    text: str
    steps: tuple[Step, ...] = ()

    @property
    def left(self) -> float | None:
        """The logarithm of the factor between ours in their protocol and the published number; None without one."""
        if self.own is None or self.row.number is None:
            return None
        return math.log(self.own / self.row.number.value)


def explained(
    rows: Sequence[Row], values: Values, tolerance: float, standin: bool = False
) -> list[Explained]:
    """Each row with its verdict. Two values agree if they differ by at most `tolerance` (relative) or by rounding."""
    return [_explained(row, rows, values, tolerance, standin) for row in rows]


def agrees(number: Number, value: float | None, tolerance: float) -> bool:
    """Whether a measurement is the published number, within the tolerance or the rounding of its last digit."""
    if value is None:
        return False
    return abs(value - number.value) <= max(tolerance * number.value, number.rounding)


def _explained(row: Row, rows: Sequence[Row], values: Values, tolerance: float, standin: bool) -> Explained:
    errors = [v for request in row.requests() if isinstance(v := values[request], PruningError)]
    if errors:
        return Explained(row, None, None, "failed", str(errors[0]))
    one, own = _value(row, values, "one"), _value(row, values, "own")
    steps = tuple(_steps(row, values))
    verdict = "stand-in" if standin and row.number is not None else _verdict(row, one, own, tolerance)
    text = _text(verdict, row, rows, values, tolerance, steps)
    return Explained(row, one, own, verdict, text, steps)


def _verdict(row: Row, one: float | None, own: float | None, tolerance: float) -> str:
    if row.number is None:
        return "no number"
    if row.own is None:
        return "not reproduced"
    if not agrees(row.number, own, tolerance):
        return "unexplained"
    if one is None:
        return "agrees"
    return "none" if agrees(row.number, one, tolerance) else "protocol"


def _value(row: Row, values: Values, which: str) -> float | None:
    """What was measured under a protocol of a row; None if it has no such protocol, or that failed."""
    protocol = getattr(row, which)
    if protocol is None:
        return None
    value = values[Request(row.entry.model, row.corpus, protocol, row.entry.mask)]
    return value if isinstance(value, float) else None


def _steps(row: Row, values: Values) -> list[Step]:
    """What each aspect brings, along the path from the one protocol to theirs. The factors multiply to own / one."""
    steps, before, known = [], row.one, _value(row, values, "one")
    for aspect, protocol in row.steps:
        value = values[Request(row.entry.model, row.corpus, protocol, row.entry.mask)]
        assert before is not None
        assert known is not None
        assert isinstance(value, float)
        steps.append(Step(aspect, before.described(aspect), protocol.described(aspect), value / known))
        before, known = protocol, value
    return steps


def _text(
    verdict: str, row: Row, rows: Sequence[Row], values: Values, tolerance: float, steps: Sequence[Step]
) -> str:
    number = row.number
    parts: list[str] = []
    if verdict == "unexplained":
        assert number is not None
        own = _value(row, values, "own")
        assert own is not None
        parts = [f"{_percent(own / number.value)} left", *_doubts(row, rows, values, tolerance)]
    elif verdict == "not reproduced":
        assert number is not None
        parts = [str(number.theirs.not_reproduced)]
    elif verdict in ("no number", "stand-in", "none"):
        parts = [VERDICTS[verdict]]
    if number is not None and number.theirs.unknown and row.own is not None:
        parts.append(f"not stated, taken as ours: {', '.join(number.theirs.unknown)}")
    if steps and verdict != "none":
        parts.append("; ".join(f"{s.aspect} {s.ours} -> {s.theirs}: {_percent(s.factor)}" for s in steps))
    return ". ".join(parts)


def _doubts(row: Row, rows: Sequence[Row], values: Values, tolerance: float) -> list[str]:
    """What can be at fault: the protocol or the weights if the dense model differs, too; else the mask."""
    assert row.number is not None
    doubts = []
    dense = _dense(row, rows)
    if dense is not None and dense.number is not None and row.entry.mask.dropped:
        value = _value(dense, values, "own")
        if value is None:
            doubts.append("the dense model could not be measured")
        elif agrees(dense.number, value, tolerance):
            doubts.append("the dense model agrees, so the mask is in doubt, not the protocol")
        else:
            doubts.append(f"the dense model differs, too, by {_percent(value / dense.number.value)}")
    if row.number.pairing == "inferred":
        doubts.append(PAIRINGS["inferred"])
    return doubts


def _dense(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the same paper, model and protocol with nothing removed."""
    same = (
        other
        for other in rows
        if not other.entry.mask.dropped
        and (other.entry.paper, other.entry.model, other.own) == (row.entry.paper, row.entry.model, row.own)
    )
    return next(same, None)


def _percent(factor: float) -> str:
    """A factor as a change: `+3.2 %`; a large one as a factor: `x 40`."""
    return f"x {factor:,.3g}" if factor >= 2 else f"{100 * (factor - 1):+.2f} %"


# The table "published, ours in one protocol, ours in their protocol, what explains the gap", as rows and files.

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
        "-" if row.number is None else _table_value(row.number.value),
        _table_value(one.one),
        _table_value(one.own),
        one.verdict,
        one.text,
    )


def _table_value(value: float | None) -> str:
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
    storage.write_json(folder / JSON, {"tolerance": tolerance, "rows": records})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(shown(found))
    storage.write_bytes(folder / CSV, text.getvalue().encode())
    return folder
