"""The outcome of each cell of a command, and the text that the command prints at its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from pruning.core.errors import BusyError, OutOfReachError
from pruning.core.result import DoneResult, Failure
from pruning.distributed import collectives
from pruning.launcher.cell_state import CellState
from pruning.runs.cell import Cell
from pruning.study import tables

# Errors that a second try of the same command does not cure.
FINAL = ("InputError", "UnskippableError", "DamagedError", "ForeignError")


@dataclass
class Outcome:
    """The outcome of each cell of a command, by the key of the cell."""

    done: dict[str, DoneResult] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    busy: dict[str, BusyError] = field(default_factory=dict)
    left_out: dict[str, OutOfReachError] = field(default_factory=dict)
    in_flight: dict[str, CellState] = field(default_factory=dict)


def sum_up(cells: Sequence[Cell], outcome: Outcome) -> None:
    """Print the table of finished cells, and the reasons why the other cells are not finished."""
    keys = [cell.key for cell in cells]
    done = [outcome.done[key] for key in keys if key in outcome.done]
    if done:
        say(tables.results(done))
    if outcome.left_out:
        reasons = dict.fromkeys(map(str, outcome.left_out.values()))
        say(f"\n{len(outcome.left_out)} of {len(cells)} cells were left out:\n" + "\n".join(reasons))
    if outcome.failed:
        say(
            f"\n{len(outcome.failed)} of {len(cells)} cells failed:\n{tables.failures(outcome.failed.values())}"
        )
    if outcome.busy:
        say(
            f"\n{len(outcome.busy)} of {len(cells)} cells are being run by another process, which records their "
            f"results:\n{chr(10).join(outcome.busy)}\nOnce it has ended, run the same command again."
        )
    if outcome.in_flight:
        say(
            f"\n{len(outcome.in_flight)} of {len(cells)} cells are in flight. `python -m pruning.status "
            f"{cells[0].results}` shows them; the same command with launcher.wait=true waits for them."
        )
    say(f"\nresults  {cells[0].results}")
    if any(failure["error"]["type"] not in FINAL for failure in outcome.failed.values()):
        say("Run the same command again to retry the failed cells; finished cells are not run again.")
    elif outcome.failed:
        say(
            "The failed cells would fail again: change what their messages name. Finished cells are not run again."
        )


def say_how_to_resume(cells: Sequence[Cell], outcome: Outcome) -> None:
    """After Ctrl-C, print what is kept and the command that resumes."""
    command = shlex.join([sys.executable, *sys.argv])
    say(
        f"\nInterrupted: {len(outcome.done)} of {len(cells)} cells are done, and every loss computed so far is kept "
        f"in {cells[0].results}. Submitted jobs keep running.\n"
        f"To resume, run the same command again:\n    {command}"
    )


def say(text: str) -> None:
    """Print a part of the command's output, on the first rank only."""
    if collectives.is_first():
        print(text, flush=True)  # noqa: T201 - the table is the command's output; logs go to stderr
