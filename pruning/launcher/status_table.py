"""The table of `python -m pruning.status`: one row a cell, what runs or went wrong first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from pruning.core.errors import first_line
from pruning.core.trace import NAME, read_trace
from pruning.launcher.cell_state import CellState, State

ORDER = (State.FAILED, State.LOST, State.RUNNING, State.PENDING, State.DONE)
COLOURS = {State.FAILED: "red", State.LOST: "red", State.RUNNING: "cyan", State.DONE: "green"}


@dataclass(frozen=True)
class Advance:
    """How far a search has come: masks scored, and seconds until it has asked for all, if that can be told."""

    scored: int
    left: float | None


def advance(folder: Path, total: int) -> Advance:
    """Read the journal of a cell whose search asks for `total` masks at the most.

    The time left is the mean of what paid evaluations took, for each that is still to come; less if other cells pay.
    """
    lines = [entry.line for entry in read_trace(folder / NAME) if entry.line is not None]
    masks, seconds = {tuple(line["dropped"]) for line in lines}, [line["seconds"] for line in lines]
    scored = min(len(masks - {()}), total)
    paid = [one for one in seconds if one > 0]
    return Advance(scored, (total - scored) * sum(paid) / len(paid) if paid else None)


def status_table(results: Path, found: Mapping[str, CellState], rows: int | None = None) -> Table:
    """The table of some cells; with `rows`, of the first so many, and how many more there are."""
    counts = Counter(one.state for one in found.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("why, and where to read on", overflow="fold")
    ranked = sorted(found.values(), key=lambda one: ORDER.index(one.state))
    for one in ranked[:rows]:
        table.add_row(*_row(results, one), style=COLOURS.get(one.state))
    hidden = len(ranked) - len(ranked[:rows])
    summary = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    table.caption = f"{len(found)} cells: {summary}" + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    return table


def _row(results: Path, one: CellState) -> tuple[str, ...]:
    scored = left = ""
    if one.state is State.RUNNING:
        found = advance(results / one.key, one.total)
        scored = f"{found.scored}/{one.total}"
        left = "" if found.left is None else duration(found.left)
    why = first_line(Exception(one.reason)) if one.reason else ""
    if one.state in (State.FAILED, State.LOST) and one.log:
        why += f": {one.log}"
    return one.key, one.state.value, scored, left, one.job.removeprefix("process-"), why


def duration(seconds: float) -> str:
    """`3:07` or `12:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
