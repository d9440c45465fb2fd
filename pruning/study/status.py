"""Show the cells that were submitted as jobs; cancel, retry or collect them.

python -m pruning.status [RESULTS]           a table; on a terminal it is live until all cells have ended
python -m pruning.status cancel [RESULTS]    cancel waiting cells, stop running ones
python -m pruning.status retry [RESULTS]     submit failed and lost cells again with the current code
python -m pruning.status collect [RESULTS]   record finished cells in MLflow; tracker.uri=URI for another store

Because a folder can come from somebody else, retry asks for recorded settings that run commands or write outside of
it: it prints the command that gives them.

RESULTS is the folder that the cells were submitted with; the default is `results`. The exit status is 1 if a cell has
failed or is lost.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from pruning.config.compose import names_folder
from pruning.core.errors import InputError, PruningError, unknown
from pruning.core.terminal import is_terminal
from pruning.launcher import submit
from pruning.launcher.cell_state import CellState, State, cell_states, status_table
from pruning.tracking.rebuild import asked_store, record_all

ACTIONS = ("cancel", "retry", "collect")
PAUSE = 5.0  # seconds between two updates of the table
WIDE = 4000  # characters per row if the output is a pipe, so that no row is cut


def main() -> None:
    """The command `python -m pruning.status`; if the request cannot be met, prints why and exits with status 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pruning").setLevel(logging.INFO)
    try:
        status = _run(sys.argv[1:])
    except PruningError as error:
        print(error, file=sys.stderr)  # noqa: T201
        status = 2
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pruning.status",
        usage="%(prog)s [cancel | retry | collect] [RESULTS] [SETTING=VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    words = parser.parse_args(arguments).words
    action, results = _parsed([word for word in words if names_folder(word)])
    settings = [word for word in words if not names_folder(word)]
    if action == "retry":
        return _retry(results, settings)
    if action == "collect":
        return _collect(results, settings)
    if settings:
        raise InputError(f"{settings[0]}: only retry and collect take settings: leave it out.")
    return _show(results) if action is None else _cancel(results)


def _parsed(words: Sequence[str]) -> tuple[str | None, Path]:
    """The action (None: show the table) and the results folder. Raises InputError if the words are invalid."""
    action = words[0] if words and words[0] in ACTIONS else None
    rest = list(words[1:] if action else words)
    if len(rest) > 1:
        raise unknown("action", rest[0], ACTIONS)
    results = Path(rest[0] if rest else "results").expanduser().resolve()
    if not results.is_dir():
        raise InputError(
            f"the folder {results} does not exist. Give the folder that cells were submitted with (paths.results); "
            f"put one of {', '.join(ACTIONS)} before it, or nothing for a table."
        )
    return action, results


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
    with Live(status_table(results, cells, _rows()), auto_refresh=False) as live:
        while any(cell.state.in_flight for cell in cells.values()):
            time.sleep(PAUSE)
            with suppress(InputError):  # the scheduler may be restarting: the next update tries again
                cells = cell_states(results)
            live.update(status_table(results, cells, _rows()), refresh=True)
    return _status(cells)


def _rows() -> int:
    """How many cells fit on the screen."""
    return max(5, shutil.get_terminal_size().lines - 8)


def _status(cells: Mapping[str, CellState]) -> int:
    return int(any(cell.state in (State.FAILED, State.LOST) for cell in cells.values()))


def _cancel(results: Path) -> int:
    _say(
        f"{submit.cancel(results)} cells were in flight and are cancelled; everything computed so far is kept."
    )
    return 0


def _retry(results: Path, settings: Sequence[str]) -> int:
    """Submit failed and lost cells again. If they run as processes on this machine, wait until all have ended.

    The wait is needed because only this command can start the cells that wait for a free slot.
    """
    submitted = submit.retry(results, settings)
    _say(f"{sum(len(keys) for _, keys in submitted)} cells are submitted again.")
    for launcher, keys in submitted:
        if launcher.waits:
            submit.settle(launcher, results, keys)
    keys = [key for launcher, some in submitted if launcher.waits for key in some]
    return _status(cell_states(results, keys))


def _collect(results: Path, settings: Sequence[str]) -> int:
    _say(f"{record_all(results, asked_store(settings))} cells with a result are recorded.")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's output
