"""Show the cells of a results folder; cancel those that were submitted as jobs.

depth-pruning status [RESULTS]           a table; on a terminal it is live until all cells have ended
depth-pruning status cancel [RESULTS]    cancel waiting cells, stop running ones

RESULTS is the folder of the cells; the default is `results`. The exit status is 1 if a cell has failed or is lost.
The command that asked for such cells tries them again.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from tqdm import tqdm

from pruning.config.words import names_folder
from pruning.core.errors import InputError, first_line
from pruning.core.scoring import NAME, read_trace
from pruning.core.terminal import command_words, is_terminal
from pruning.launcher.cell_state import CellState, StateName, all_states, cancel
from pruning.study.text_tables import say

CANCEL = "cancel"
PAUSE = 5.0  # seconds between two updates of the table
WIDE = 4000  # characters per row if the output is a pipe, so that no row is cut
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
    """Carry out a command; returns its exit status. Raises InputError if the words are invalid."""
    places = [word for word in words if word != CANCEL]
    if len(places) > 1 or any("=" in word and not names_folder(word) for word in places):
        raise InputError(f"{' '.join(words)}: give one folder of results, and {CANCEL} before it or nothing.")
    results = Path(places[0] if places else "results").expanduser().resolve()
    if not results.is_dir():
        raise InputError(f"the folder {results} does not exist: give the one that paths.results named.")
    if CANCEL not in words:
        return _show(results)
    say(f"{cancel(results)} cells were in flight and are cancelled; everything computed so far is kept.")
    return 0


def _status(cells: Mapping[str, CellState]) -> int:
    return int(any(cell.state in BAD for cell in cells.values()))


def _show(results: Path) -> int:
    """Print the table; on a terminal, update it until all cells have ended."""
    cells = all_states(results)
    if not cells:
        raise InputError(f"there is no cell in {results}: give the folder that paths.results named.")
    if not is_terminal(sys.stdout):
        Console(width=WIDE).print(status_table(results, cells))
        return _status(cells)

    def fitting() -> Table:
        return status_table(results, cells, max(5, shutil.get_terminal_size().lines - 8))

    with Live(fitting(), auto_refresh=False) as live:
        while any(cell.state.in_flight for cell in cells.values()):
            time.sleep(PAUSE)
            with suppress(InputError):  # the scheduler may be restarting: the next update tries again
                cells = all_states(results)
            live.update(fitting(), refresh=True)
    return _status(cells)


def status_table(results: Path, cells: Mapping[str, CellState], rows: int | None = None) -> Table:
    """The table of `cells`. If `rows` is given, it shows only the first `rows` cells and the number of the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("reason, log", overflow="fold")
    ranked = sorted(cells.values(), key=lambda cell: list(COLOURS).index(cell.state))
    for cell in ranked[:rows]:
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
    hidden = len(ranked) - len(ranked[:rows])
    counts = Counter(cell.state for cell in ranked)
    summary = ", ".join(f"{counts[state]} {state}" for state in StateName if counts[state])
    table.caption = f"{len(cells)} cells: {summary}" + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    return table


def advance(folder: Path, total: int) -> tuple[int, float | None]:
    """The number of masks that a cell has scored, and the estimated seconds left (None if there is no estimate).

    `total` is the largest number of masks that the search asks for (0: unknown). The time left is the mean time of
    the evaluations that the cell computed itself, times the number of masks left. If other cells compute some of
    these masks, the estimate is too long.
    """
    lines = [entry.line for entry in read_trace(folder / NAME) if entry.line is not None]
    masks = {tuple(line["dropped"]) for line in lines}
    paid = [line["seconds"] for line in lines if line["seconds"] > 0]
    scored = len(masks - {()})
    if not total:
        return scored, None
    scored = min(scored, total)
    return scored, (total - scored) * sum(paid) / len(paid) if paid else None
