"""The cells that were submitted as jobs: where they stand, and what can be done about it.

python -m pruning.status [RESULTS]           a table; on a terminal it is live until all cells have ended
python -m pruning.status cancel [RESULTS]    take out of the queue what waits, stop what runs
python -m pruning.status retry [RESULTS]     submit failed and lost cells again, with the code of today
python -m pruning.status collect [RESULTS]   record finished cells in MLflow
python -m pruning.status --help

RESULTS is the folder that the cells were submitted with, `results` if left out. The exit status is 1 where a cell has
failed or is lost.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from pruning.core.errors import InputError, PruningError, unknown
from pruning.launcher import actions, submit
from pruning.launcher.cell_state import CellState, State, cell_states
from pruning.launcher.status_table import status_table
from pruning.tracking.rebuild import record_all

ACTIONS = ("cancel", "retry", "collect")
PAUSE = 5.0  # seconds between two looks
WIDE = 4000  # columns: a pipe gets whole rows


def main() -> None:
    """The command; exits with 2 for what cannot be done, in plain words."""
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


def _run(words: Sequence[str]) -> int:
    if "--help" in words or "-h" in words:
        _say((__doc__ or "").strip())
        return 0
    action, results = _parsed(words)
    if action is None:
        return _show(results)
    return {"cancel": _cancel, "retry": _retry, "collect": _collect}[action](results)


def _parsed(words: Sequence[str]) -> tuple[str | None, Path]:
    """The action, if one is meant, and the results folder. Raises InputError for words that make no sense."""
    action = words[0] if words and words[0] in ACTIONS else None
    rest = list(words[1:] if action else words)
    if len(rest) > 1:
        raise unknown("action", rest[0], ACTIONS)
    results = Path(rest[0] if rest else "results").expanduser().resolve()
    if not results.is_dir():
        raise InputError(
            f"{results}: there is no such folder. Give the one that cells were submitted with (paths.results) and, "
            f"before it, one of {', '.join(ACTIONS)}, or nothing for a table."
        )
    return action, results


def _show(results: Path) -> int:
    """The table: live on a terminal, else once."""
    found = cell_states(results)
    if not found:
        raise InputError(
            f"no cell of {results} was ever submitted: launcher=slurm and launcher=processes do that."
        )
    if not sys.stdout.isatty():
        Console(width=WIDE).print(status_table(results, found))
        return _status(found)
    with Live(status_table(results, found, _rows()), auto_refresh=False) as live:
        while any(one.state.in_flight for one in found.values()):
            time.sleep(PAUSE)
            with suppress(InputError):  # a scheduler that restarts: the next look will do
                found = cell_states(results)
            live.update(status_table(results, found, _rows()), refresh=True)
    return _status(found)


def _rows() -> int:
    """How many cells fit on the screen."""
    return max(5, shutil.get_terminal_size().lines - 8)


def _status(found: Mapping[str, CellState]) -> int:
    return int(any(one.state in (State.FAILED, State.LOST) for one in found.values()))


def _cancel(results: Path) -> int:
    _say(
        f"{actions.cancel(results)} cells were in flight and are cancelled; what they have computed is kept."
    )
    return 0


def _retry(results: Path) -> int:
    """Submit again; processes of this machine are waited for, since nobody else would start the next one."""
    submitted = actions.retry(results)
    _say(f"{sum(len(keys) for _, keys in submitted)} cells are submitted again.")
    for launcher, keys in submitted:
        if launcher.waits:
            submit.settle(launcher, results, keys)
    keys = [key for launcher, some in submitted if launcher.waits for key in some]
    return _status(cell_states(results, keys))


def _collect(results: Path) -> int:
    _say(f"{record_all(results)} cells with a result are recorded.")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what the command answers
