"""What explains the gap between a published number and the measurement in the one protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruning.core.errors import PruningError
from pruning.published.plan import Request, Row
from pruning.published.records import PAIRINGS, Number

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
