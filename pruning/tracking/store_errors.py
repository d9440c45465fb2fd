"""Turn the exceptions of MLflow and its database into one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pruning.core.errors import PruningError, first_line

# A word of the exception's text, and what it means. The first that matches is used.
MEANINGS = (
    ("Connection refused", "no server answers there"),
    ("Failed to resolve", "its host is unknown"),
    ("Connection aborted", "the server closed the connection"),
    ("timed out", "it does not answer in time"),
    ("database is locked", "another process is writing to it; run again when that has ended"),
    ("could not be acquired", "another process is writing to it; run again when that has ended"),
    ("readonly database", "it cannot be written"),
    ("unable to open database", "it cannot be written"),
    ("Permission denied", "it cannot be written"),
    ("disk is full", "its disk is full"),
    ("No space left", "its disk is full"),
    ("malformed", "its database is damaged"),
    ("not a database", "its database is damaged"),
)


def reason(error: BaseException) -> str:
    """Why a store cannot be used, in a few words on one line."""
    text = str(error)
    for word, meaning in MEANINGS:
        if word in text:
            return meaning
    return first_line(error)


@contextmanager
def plain_errors(store: object) -> Iterator[None]:
    """A context that turns each exception into a PruningError of one line, which names the store."""
    try:
        yield
    except PruningError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy and requests raise exceptions of many kinds
        raise PruningError(f"the MLflow store {store} cannot be used: {reason(error)}") from error
