"""What explains the gap between a published number and the measurement in the one protocol; the table of all gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pruning.core.errors import PruningError
from pruning.published.library import PAIRINGS, Protocol, PublishedNumber
from pruning.published.measure import GapRow, Measurement

TOLERANCE = 0.01  # the relative difference up to which two perplexities agree
VERDICTS = {
    "none": "the number is found in both protocols",
    "protocol": "the number is found in its own protocol, so the protocol explains the gap",
    "agrees": "the number is found in its own protocol; the one protocol does not have its text",
    "unexplained": "the number is not found in its own protocol",
    "not reproduced": "its own protocol cannot be followed here",
    "no number": "no source prints a number for this mask",
    "failed": "a measurement failed",
}

Values = Mapping[Measurement, float | PruningError]


@dataclass(frozen=True)
class Explained:
    """A row with its two measurements and the verdict; `text` says it in words."""

    row: GapRow
    one: float | None
    own: float | None
    verdict: str
    text: str


def explained(rows: Sequence[GapRow], values: Values) -> list[Explained]:
    """Each row with its verdict. Two values agree if they differ by at most `TOLERANCE`."""
    # A paper's dense model, by its own protocol: whether it agrees says if the mask or the protocol is in doubt.
    dense = {(r.entry.paper, r.entry.model, r.own): r for r in reversed(rows) if not r.entry.mask.dropped}
    found = []
    for row in rows:
        errors = [v for request in row.requests() if isinstance(v := values[request], PruningError)]
        if errors:
            found.append(Explained(row, None, None, "failed", str(errors[0])))
            continue
        one, own, number = _value(row, row.one, values), _value(row, row.own, values), row.number
        if number is None:
            found.append(Explained(row, one, own, "no number", ""))
            continue
        verdict, parts = _verdict(row, number, one, own), list[str]()
        if own is not None and verdict == "unexplained":
            whole = dense.get((row.entry.paper, row.entry.model, row.own))
            parts = [f"{_percent(own / number.value)} left", *_doubts(row, number, whole, values)]
        elif verdict == "not reproduced":
            parts = [str(number.theirs.not_reproduced)]
        if number.theirs.unknown and row.own is not None:
            parts.append(f"not stated, taken as ours: {', '.join(number.theirs.unknown)}")
        if row.one is not None and row.own is not None and verdict != "none":
            parts.append(row.one.differences(row.own))
        found.append(Explained(row, one, own, verdict, ". ".join(filter(None, parts))))
    return found


def agrees(number: PublishedNumber, value: float | None) -> bool:
    """Whether a measurement is the published number, within the tolerance."""
    return value is not None and abs(value - number.value) <= TOLERANCE * number.value


def _verdict(row: GapRow, number: PublishedNumber, one: float | None, own: float | None) -> str:
    if row.own is None:
        return "not reproduced"
    if not agrees(number, own):
        return "unexplained"
    if one is None:
        return "agrees"
    return "none" if agrees(number, one) else "protocol"


def _value(row: GapRow, protocol: Protocol | None, values: Values) -> float | None:
    """What was measured in a protocol of a row; None if there is no such protocol, or if that failed."""
    value = None if protocol is None else values[row.request(protocol)]
    return value if isinstance(value, float) else None


def _doubts(row: GapRow, number: PublishedNumber, dense: GapRow | None, values: Values) -> list[str]:
    """What can be at fault: the protocol or the weights if the dense model differs, too; else the mask."""
    doubts = []
    if dense is not None and dense.number is not None and row.entry.mask.dropped:
        value = _value(dense, dense.own, values)
        if value is None:
            doubts.append("the dense model could not be measured")
        elif agrees(dense.number, value):
            doubts.append("the dense model agrees, so the mask is in doubt, not the protocol")
        else:
            doubts.append(f"the dense model differs, too, by {_percent(value / dense.number.value)}")
    if number.pairing == "inferred":
        doubts.append(PAIRINGS["inferred"])
    return doubts


def _percent(factor: float) -> str:
    """A factor as a change: `+3.2 %`; a large one as a factor: `x 40`."""
    return f"x {factor:,.3g}" if factor >= 2 else f"{100 * (factor - 1):+.2f} %"


def record(one: Explained) -> dict[str, Any]:
    """A row of `table.json`, with everything that it was made from: sources, protocols, measurements."""
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
        "verdict": one.verdict,
        "why": one.text,
        "note": row.entry.note,
    }
