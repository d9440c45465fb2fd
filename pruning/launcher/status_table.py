"""The table of `python -m pruning.status`: one row per cell; failed, lost and running cells come first."""

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
    """The progress of a search: masks scored, and the estimated seconds left, or None if there is no estimate."""

    scored: int
    left: float | None


def advance(folder: Path, total: int) -> Advance:
    """Read the progress of a cell from its journal; its search asks for `total` masks at most.

    The time left is the mean time of the evaluations that the cell computed itself, times the number of masks left.
    This estimate is too long if other cells compute some of these masks.
    """
    lines = [entry.line for entry in read_trace(folder / NAME) if entry.line is not None]
    masks, seconds = {tuple(line["dropped"]) for line in lines}, [line["seconds"] for line in lines]
    scored = min(len(masks - {()}), total)
    paid = [time for time in seconds if time > 0]
    return Advance(scored, (total - scored) * sum(paid) / len(paid) if paid else None)


def status_table(results: Path, cells: Mapping[str, CellState], rows: int | None = None) -> Table:
    """The table of some cells; if `rows` is given, only the first `rows` cells and the number of the others."""
    counts = Counter(cell.state for cell in cells.values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("reason, log", overflow="fold")
    ranked = sorted(cells.values(), key=lambda cell: ORDER.index(cell.state))
    for cell in ranked[:rows]:
        table.add_row(*_row(results, cell), style=COLOURS.get(cell.state))
    hidden = len(ranked) - len(ranked[:rows])
    summary = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    table.caption = f"{len(cells)} cells: {summary}" + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    return table


def _row(results: Path, cell: CellState) -> tuple[str, ...]:
    scored = left = ""
    if cell.state is State.RUNNING:
        progress = advance(results / cell.key, cell.total)
        scored = f"{progress.scored}/{cell.total}"
        left = "" if progress.left is None else duration(progress.left)
    reason = first_line(Exception(cell.reason)) if cell.reason else ""
    if cell.state in (State.FAILED, State.LOST) and cell.log:
        reason += f": {cell.log}"
    return cell.key, cell.state.value, scored, left, cell.job.removeprefix("process-"), reason


def duration(seconds: float) -> str:
    """Seconds as `3:07` or `12:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
