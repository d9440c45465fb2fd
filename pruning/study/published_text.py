"""What the command for published masks prints: its plan, its dry run, and its table."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruning.core.errors import PruningError
from pruning.core.units import bytes_text, duration_text
from pruning.published import check, explain, plan, table
from pruning.published.forecast import forecast, free_bytes
from pruning.published.measure import Referee
from pruning.published.records import Entry
from pruning.study.tables import render

log = logging.getLogger(__name__)


def dry_run(rows: Sequence[plan.Row], referee: Referee, left_out: Sequence[Entry]) -> str:
    """What the command would do: masks, protocols, what is there and what is missing, time and memory."""
    models, texts = check.models_found(rows, referee), check.texts_found(rows)
    there = not any(found.missing for found in [*models, *texts])
    lines = [_counts(rows), *_masks(rows), "models and texts"]
    lines += [
        f"  {one.what}: {one.state}{f' ({one.missing})' if one.missing else ''}" for one in [*models, *texts]
    ]
    lines += _left_out(left_out)
    lines += ["", *_forecast(rows, referee)]
    lines += [] if there else ["", check.HELP]
    return "\n".join([*lines, "", "This was a dry run: nothing was measured."])


def say_plan(
    rows: Sequence[plan.Row], requests: Sequence[plan.Request], referee: Referee, left_out: Sequence[Entry]
) -> None:
    """Log how much there is to do, and how much is done."""
    known = sum(referee.known(request) is not None for request in requests)
    log.info("%s; %d of %d measurements are known", _counts(rows), known, len(requests))
    for line in _left_out(left_out):
        log.warning("%s", line)


def result(found: Sequence[explain.Explained], folder: Path) -> str:
    """The table, the count of each verdict with its meaning, and where the files are."""
    counts = Counter(one.verdict for one in found)
    meanings = [f"{counts[verdict]:4} {verdict}: {meaning}" for verdict, meaning in explain.VERDICTS.items()]
    shown = [line for line, verdict in zip(meanings, explain.VERDICTS, strict=True) if counts[verdict]]
    rows = [row[:-1] for row in table.shown(found)]
    return "\n".join(
        [
            render(table.COLUMNS[:-1], rows, right=table.COLUMNS[4:7]),
            *shown,
            "",
            *_why(found),
            f"files    {folder}",
        ]
    )


def _why(found: Sequence[explain.Explained]) -> Iterator[str]:
    """A line for each row whose verdict needs one."""
    for one in found:
        if one.text and one.verdict not in ("none", "no number", "stand-in"):
            yield f"{one.row.entry.name}, {one.row.corpus}: {one.verdict}. {one.text}."


def _counts(rows: Sequence[plan.Row]) -> str:
    """How many masks, numbers and measurements there are."""
    masks = len({row.entry.name for row in rows})
    numbers = sum(row.number is not None for row in rows)
    return f"{masks} published masks with {numbers} numbers, {len(plan.requests(rows))} measurements"


def _masks(rows: Sequence[plan.Row]) -> Iterator[str]:
    """The table of masks with their published numbers."""
    entries = dict.fromkeys(row.entry for row in rows)
    lines = []
    for entry in entries:
        numbers = [row.number for row in rows if row.entry == entry and row.number is not None]
        printed = ", ".join(f"{number.theirs.corpus} {number.value:,.2f}" for number in numbers) or "-"
        removed = " ".join(entry.mask.names()) or "nothing"
        lines.append((entry.name, entry.model.name, entry.method, removed, printed))
    yield render(("mask", "model", "method", "removed", "published"), lines)


def _left_out(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return []
    counts = Counter((entry.model.name, entry.model.blocks) for entry in entries)
    parts = [f"{count} of {name} ({blocks} blocks)" for (name, blocks), count in counts.items()]
    return [f"left out, because the stand-in has another number of blocks: {', '.join(parts)}"]


def _forecast(rows: Sequence[plan.Row], referee: Referee) -> Iterator[str]:
    """Lines on time and memory. Measurements whose files are here take no time."""
    todo = [request for request in plan.requests(rows) if _known(request, referee) is None]
    if not todo:
        yield "every measurement is known: only the table would be made"
        return
    parts = forecast(todo, lambda request: _tokens(request, referee))
    yield "on this machine, roughly"
    for part in parts:
        yield (
            f"  {part.model} {part.dtype}: {part.count} measurements of {part.tokens:,} tokens, "
            f"{duration_text(part.seconds)}, {bytes_text(part.memory)}"
        )
    free, most = free_bytes(), max(part.memory for part in parts)
    fits = "" if most <= free else "; weights that do not fit are placed as docs/placement.md says"
    total = duration_text(sum(part.seconds for part in parts))
    yield f"  in all {total}; at most {bytes_text(most)} at once, {bytes_text(free)} are free{fits}"


def _known(request: plan.Request, referee: Referee) -> float | None:
    try:
        return referee.known(request)
    except PruningError:  # the model or the text is missing
        return None


def _tokens(request: plan.Request, referee: Referee) -> int | None:
    try:
        return sum(len(row.input_ids) for row in referee.samples(request).rows)
    except PruningError:
        return None
