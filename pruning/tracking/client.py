"""A client of an MLflow store, checks of the store's address, and plain messages for its errors."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pruning.core.errors import InputError, PruningError, first_line, near_names


def connect(uri: str, *, create: bool = False) -> Any:
    """An MLflow client. If the server does not answer, calls fail within seconds instead of minutes.

    Raises InputError if the address is wrong, or if an SQLite file does not exist and `create` is false.
    """
    check_uri(uri, "the MLflow store ")
    if (file := sqlite_file(uri)) is not None:
        if create:
            file.parent.mkdir(exist_ok=True)
        else:
            _check_database(file)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow sets these to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    # Do not log retries: if a call fails after all of them, the caller reports it in one line.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


# Addresses. No function here creates a database.

SQLITE = "sqlite"
KINDS = (SQLITE, "http", "https", "postgresql", "mysql", "mssql")
FORMS = "sqlite:///FILE, http://HOST:PORT or postgresql://USER@HOST/NAME"


def check_uri(uri: str, setting: str = "tracker.uri=") -> None:
    """Raise InputError if `uri` cannot be the address of a store. Its message begins with `setting`."""
    scheme, fault = uri.partition(":")[0], None
    kind = scheme.partition("+")[0]
    if kind not in KINDS or uri == kind:
        fault = f"is not the address of an MLflow store ('{scheme}').{near_names(kind, KINDS)} Give {FORMS}"
    elif kind == SQLITE:
        fault = _file_fault(uri.partition(":///")[2].partition("?")[0])
    else:
        try:
            parts = urlsplit(uri)
            named = bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:  # a port that is not a number
            named = False
        if not named:
            fault = f"names no server or database: give {FORMS}"
    if fault is not None:
        raise InputError(f"{setting}{uri} {fault}.")


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the database that a checked address names; None if it does not name a file."""
    if uri.partition(":")[0].partition("+")[0] != SQLITE:
        return None
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute()


def _file_fault(name: str) -> str | None:
    """Why a file name in an address cannot name an SQLite file; None if it can."""
    file = Path(name).absolute()
    if not name or name.startswith(":memory:"):
        return "names no file: give sqlite:///FILE with three slashes, or four for an absolute path"
    if not file.parent.parent.is_dir():
        return f"cannot be made: there is no folder {file.parent}. Create it or correct the path"
    if file.is_dir():
        return "is a folder: give a file in it, such as mlflow.db"
    with suppress(OSError), file.open("rb") as stream:  # an unreadable file is reported later
        if stream.read(16) not in (b"", b"SQLite format 3\0"):
            return f"does not fit: {file} is not an SQLite database. Give another file"
    return None


def _check_database(file: Path) -> None:
    """Raise InputError unless `file` is an MLflow database, because MLflow would create or alter any other file."""
    if not file.exists():
        near = near_names(file.name, [path.name for path in file.parent.glob("*.db")])
        raise InputError(
            f"there is no MLflow database {file}.{near} `depth-pruning track RESULTS` builds one from the files "
            "of the results."
        )
    known: object = True
    opened = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)
    with suppress(sqlite3.OperationalError), closing(opened):  # locked or not permitted: writing reports this
        known = opened.execute("select 1 from sqlite_master where name = 'experiments'").fetchone()
    if known is None:
        raise InputError(f"{file} is not a database of MLflow: give that of the results, RESULTS/mlflow.db.")


# Errors of MLflow, its database and its server: a part of the error's text, and what it means.

MEANINGS = (
    ("Connection refused", "no server answers there"),
    ("timed out", "it does not answer in time"),
    ("database is locked", "another process is writing to it; run again when that has ended"),
    ("could not be acquired", "another process is writing to it; run again when that has ended"),
    ("unable to open database", "it cannot be written"),
    ("malformed", "its database is damaged: move it away, and `depth-pruning track` builds it again"),
)


def reason(error: BaseException) -> str:
    """The reason why a store cannot be used, in a few words on one line."""
    return next((meaning for word, meaning in MEANINGS if word in str(error)), first_line(error))


@contextmanager
def plain_errors(store: object) -> Iterator[None]:
    """A context in which each exception becomes a PruningError whose one-line message names the store."""
    try:
        yield
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(f"the MLflow store {store} cannot be used: {reason(error)}") from error
