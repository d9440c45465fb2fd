"""Show the cells of a results folder; cancel those that were submitted as jobs.

depth-pruning status [RESULTS]           a table; `watch -c depth-pruning status` repeats it
depth-pruning status cancel [RESULTS]    cancel waiting cells, stop running ones

RESULTS is the folder of the cells; the default is `results`. The exit status is 1 if a cell has failed or is lost.
To try such cells again, repeat the command that asked for them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pruning.config.words import results_of
from pruning.core.errors import InputError, first_line
from pruning.core.scoring import NAME, read_trace
from pruning.core.terminal import command_words, is_terminal
from pruning.launcher.cell_state import CellState, StateName, all_states, cancel, summary
from pruning.study.text_tables import say

CANCEL = "cancel"
WIDE = 4000  # characters per row if the output is a pipe, so that no row is cut off
# The states in the order of the table, with their colours: failed and lost cells come first.
COLOURS = {
    StateName.FAILED: "red",
    StateName.LOST: "red",
    StateName.RUNNING: "cyan",
    StateName.PENDING: "",
    StateName.DONE: "green",
}
BAD = (StateName.FAILED, StateName.LOST)


def main() -> None:
    """The command `depth-pruning status`."""
    raise SystemExit(run_status(command_words()))


def run_status(words: Sequence[str]) -> int:
    """Run the command and return its exit status. Raises InputError if an argument is invalid."""
    results, _ = results_of([word for word in words if word != CANCEL])
    if not results.is_dir():
        raise InputError(f"the folder {results} does not exist: give the one that paths.results named.")
    if CANCEL not in words:
        return _show(results)
    say(f"{cancel(results)} cells were in flight and are cancelled; everything computed so far is kept.")
    return 0


def _show(results: Path) -> int:
    cells = all_states(results)
    if not cells:
        raise InputError(f"there is no cell in {results}: give the folder that paths.results named.")
    Console(width=None if is_terminal(sys.stdout) else WIDE).print(status_table(results, cells))
    return int(any(cell.state in BAD for cell in cells.values()))


def status_table(results: Path, cells: Mapping[str, CellState]) -> Table:
    """The table of `cells`, failed and lost ones first; its caption counts the cells in each state."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("reason, log", overflow="fold")
    for cell in sorted(cells.values(), key=lambda cell: list(COLOURS).index(cell.state)):
        scored = left = ""
        if cell.state is StateName.RUNNING:
            count, seconds = advance(results / cell.key, cell.total)
            scored = f"{count}/{cell.total}" if cell.total else str(count)
            left = "" if seconds is None else tqdm.format_interval(seconds)
        reason = first_line(cell.reason) if cell.reason else ""
        if cell.state in BAD and cell.log:
            reason += f": {cell.log}"
        words = (cell.key, cell.state.value, scored, left, cell.job, reason)
        table.add_row(*words, style=COLOURS[cell.state])
    table.caption = f"{len(cells)} cells: {summary(cells.values())}"
    return table


def advance(folder: Path, total: int) -> tuple[int, float | None]:
    """The number of masks that a cell has scored, and the estimated seconds left (None if there is no estimate).

    `total` is the largest number of masks that the search asks for (0: unknown). Each remaining mask is
    expected to take the mean time of the masks that the cell scored itself.
    """
    lines = [entry.line for entry in read_trace(folder / NAME) if entry.line is not None]
    masks = {tuple(line["dropped"]) for line in lines}
    paid = [line["seconds"] for line in lines if line["seconds"] > 0]
    scored = len(masks - {()})
    if not total:
        return scored, None
    scored = min(scored, total)
    return scored, (total - scored) * sum(paid) / len(paid) if paid else None
