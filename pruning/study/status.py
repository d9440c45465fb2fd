"""Show the cells that were submitted as jobs; cancel, retry or collect them.

depth-pruning status [RESULTS]           a table; on a terminal it is live until all cells have ended
depth-pruning status cancel [RESULTS]    cancel waiting cells, stop running ones
depth-pruning status retry [RESULTS]     submit failed and lost cells again with the current code
depth-pruning status collect [RESULTS]   record finished cells in MLflow; tracker.uri=URI for another store

Because a folder can come from somebody else, retry asks for recorded settings that run commands or write outside of
it: it prints the command that gives them.

RESULTS is the folder that the cells were submitted with; the default is `results`. The exit status is 1 if a cell has
failed or is lost.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from tqdm import tqdm

from pruning.config.words import names_folder
from pruning.core.errors import InputError, first_line, unknown
from pruning.core.scoring import NAME, read_trace
from pruning.core.terminal import command_words, is_terminal
from pruning.launcher import submit
from pruning.launcher.cell_state import CellState, StateName, cell_states
from pruning.launcher.scheduler import PROCESS
from pruning.study.text_tables import say
from pruning.tracking.rebuild import asked_store, record_all

ACTIONS = ("cancel", "retry", "collect")
PAUSE = 5.0  # seconds between two updates of the table
WIDE = 4000  # characters per row if the output is a pipe, so that no row is cut
# The states as the table orders them, with their colours: what went wrong comes first.
COLOURS = {
    StateName.FAILED: "red",
    StateName.LOST: "red",
    StateName.RUNNING: "cyan",
    StateName.PENDING: "",
    StateName.DONE: "green",
}
BAD = (StateName.FAILED, StateName.LOST)


def main() -> None:
    """The command `depth-pruning status`. Errors are raised, and `run_command` prints them in plain words."""
    words = command_words()
    if {"-h", "--help"} & {*words}:
        say(str(__doc__))
        return
    raise SystemExit(run_status(words))


def run_status(words: Sequence[str]) -> int:
    """Carry out a command; returns its exit status. Raises InputError if the words are invalid."""
    settings = [word for word in words if not names_folder(word)]
    places = [word for word in words if names_folder(word)]
    action = places.pop(0) if places and places[0] in ACTIONS else None
    if len(places) > 1:
        raise unknown("action", places[0], ACTIONS)
    results = Path(places[0] if places else "results").expanduser().resolve()
    if not results.is_dir():
        raise InputError(
            f"the folder {results} does not exist. Give the folder that cells were submitted with (paths.results); "
            f"put one of {', '.join(ACTIONS)} before it, or nothing for a table."
        )
    if settings and action not in ("retry", "collect"):
        raise InputError(f"{settings[0]}: only retry and collect take settings: leave it out.")
    if action is None:
        return _show(results)
    if action == "cancel":
        flying = submit.cancel(results)
        say(f"{flying} cells were in flight and are cancelled; everything computed so far is kept.")
    elif action == "collect":
        say(f"{record_all(results, asked_store(settings))} cells with a result are recorded.")
    elif action == "retry":
        submitted = submit.retry(results, settings)
        say(f"{sum(len(keys) for _, keys in submitted)} cells are submitted again.")
        waiting = [(launcher, keys) for launcher, keys in submitted if launcher.waits]
        for launcher, keys in waiting:  # only this command can start the cells that wait for a free slot
            submit.settle(launcher, results, keys)
        return _status(cell_states(results, [key for _, keys in waiting for key in keys]))
    return 0


def _status(cells: Mapping[str, CellState]) -> int:
    return int(any(cell.state in BAD for cell in cells.values()))


def _show(results: Path) -> int:
    """Print the table; on a terminal, update it until all cells have ended."""
    cells = cell_states(results)
    if not cells:
        raise InputError(
            f"no cell in {results} was submitted as a job: launcher=slurm and launcher=processes submit jobs."
        )
    if not is_terminal(sys.stdout):
        Console(width=WIDE).print(status_table(results, cells))
        return _status(cells)

    def fitting() -> Table:
        return status_table(results, cells, max(5, shutil.get_terminal_size().lines - 8))

    with Live(fitting(), auto_refresh=False) as live:
        while any(cell.state.in_flight for cell in cells.values()):
            time.sleep(PAUSE)
            with suppress(InputError):  # the scheduler may be restarting: the next update tries again
                cells = cell_states(results)
            live.update(fitting(), refresh=True)
    return _status(cells)


def status_table(results: Path, cells: Mapping[str, CellState], rows: int | None = None) -> Table:
    """The table of some cells; if `rows` is given, only the first `rows` cells and the number of the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("cell", "state", "scored", "left", "job"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("scored", "left") else "left")
    table.add_column("reason, log", overflow="fold")
    ranked = sorted(cells.values(), key=lambda cell: list(COLOURS).index(cell.state))
    for cell in ranked[:rows]:
        scored = left = ""
        if cell.state is StateName.RUNNING:
            progress = advance(results / cell.key, cell.total)
            scored = f"{progress.scored}/{cell.total}"
            left = "" if progress.left is None else tqdm.format_interval(progress.left)
        reason = first_line(cell.reason) if cell.reason else ""
        if cell.state in BAD and cell.log:
            reason += f": {cell.log}"
        words = (cell.key, cell.state.value, scored, left, cell.job.removeprefix(PROCESS), reason)
        table.add_row(*words, style=COLOURS[cell.state])
    hidden = len(ranked) - len(ranked[:rows])
    counts = Counter(cell.state for cell in ranked)
    summary = ", ".join(f"{counts[state]} {state}" for state in StateName if counts[state])
    table.caption = f"{len(cells)} cells: {summary}" + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    return table


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
    masks = {tuple(line["dropped"]) for line in lines}
    paid = [line["seconds"] for line in lines if line["seconds"] > 0]
    scored = min(len(masks - {()}), total)
    return Advance(scored, (total - scored) * sum(paid) / len(paid) if paid else None)
