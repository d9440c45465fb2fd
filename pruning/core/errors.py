"""The exceptions of the project, all in one tree.

What a user can mend by changing the command is an `InputError` and stops the command before anything
expensive starts. Everything else fails one cell, is recorded in its result, and lets the others run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PruningError(Exception):
    """Base of all errors that this project raises on purpose; its text is meant for the user."""


class InputError(PruningError):
    """A value in the configuration or in a file is wrong: the text names it, what is allowed, what to do."""


class OutOfReachError(InputError):
    """A search that would need far too many evaluations; in a grid, such a cell is left out and the others run."""


class UnreachableError(PruningError):
    """A model or data set could not be fetched: gated, misspelt, or no network."""


class UnskippableError(PruningError):
    """A model whose blocks cannot be removed safely; the text says why."""


class LossError(PruningError):
    """The loss of a mask is NaN or infinite."""


class DamagedError(PruningError):
    """A file of an earlier run cannot be read."""


class ForeignError(PruningError):
    """A folder holds the result of another configuration."""


class MismatchError(PruningError):
    """An exported model is not the masked model; the text says in what they differ."""


class BusyError(PruningError):
    """Another process is running this cell at the moment."""


class RankError(PruningError):
    """Of several processes that run a cell together, another one ended or does not answer."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none: what fits into another sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a misspelt name that lists the near ones first."""
    names = sorted(known)
    return InputError(
        f"unknown {what} '{name}'.{near_names(name, names)} Available: {', '.join(names) or 'none'}."
    )


def near_names(name: str, known: Sequence[str]) -> str:
    """` Did you mean a or b?`, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def merged_error(errors: Sequence[PruningError]) -> InputError:
    """All that is wrong, in one error, so that the user mends it in one go."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    return InputError("\n".join(texts))
