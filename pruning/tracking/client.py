"""A client of an MLflow store; mlflow is imported only when a client is made."""

from __future__ import annotations

import difflib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pruning.core.errors import InputError, PruningError, first_line, near_names


def connect(uri: str, *, create: bool = False) -> Any:
    """An MLflow client. If its server does not answer, a call fails after seconds instead of minutes.

    Raises InputError if the address is wrong, or if an SQLite file does not exist and `create` is false.
    """
    check_uri(uri, setting="")
    if not create:
        check_exists(uri)
    elif (file := sqlite_file(uri)) is not None:
        file.parent.mkdir(exist_ok=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow sets these to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    # A retry is no news: if the call fails in the end, the caller reports it in one line.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


# Check the address of an MLflow store before it is used. No function here creates a database.

SQLITE = "sqlite"
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
FORMS = "sqlite:///FILE, http://HOST:PORT or postgresql://USER@HOST/NAME"
# What could change numbers while they are written or read. MLflow's own trigger protects its table of secrets.
FOREIGN = (
    "select type, name from sqlite_master where type = 'view' or (type = 'trigger' and tbl_name != 'secrets')"
)
HEADER = b"SQLite format 3\0"  # the first bytes of each SQLite database


def check_uri(uri: str, setting: str = "tracker.uri") -> None:
    """Check the form of an address; for SQLite, also that its file can be a database.

    Raises InputError, which names `setting` if there is one, if the address cannot be that of a store.
    """
    named = f"{setting}={uri}" if setting else f"the MLflow store {uri}"
    scheme, colon, rest = uri.partition(":")
    kind = scheme.partition("+")[0]
    known = [SQLITE, *SERVERS, *DATABASES, "databricks", "uc", *_plugins()]
    if not colon and uri not in known:
        raise InputError(f"{named} is not the address of an MLflow store: give {FORMS}.")
    if kind not in known:
        near = near_names(kind, known)
        raise InputError(f"{named} has the unknown scheme '{scheme}'.{near} Give {FORMS}.")
    if kind in SERVERS and not _has_host(uri):
        raise InputError(f"{named} names no server: give http://HOST:PORT.")
    if kind in DATABASES and len(rest) < len("//x"):
        raise InputError(f"{named} names no database: give {kind}://USER@HOST/NAME.")
    if kind == SQLITE:
        _check_file(uri, named)


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the database that a checked address names; None if it does not name a file."""
    if uri.partition(":")[0].partition("+")[0] != SQLITE:
        return None
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute()


def check_exists(uri: str) -> None:
    """Raise InputError if a checked address names an SQLite file that is missing or that is not MLflow's.

    Call this before reading: MLflow would create the file.
    """
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.exists():
        near = near_names(file.name, [path.name for path in file.parent.glob("*.db")])
        raise InputError(
            f"there is no MLflow database {file}.{near} `make track` builds one from the results files."
        )
    if (fault := damage(file)) is not None:
        raise InputError(
            f"the MLflow database {file} is damaged ({fault}): `python -m pruning.track` builds the one beside the "
            "results again; move any other one away first."
        )
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        tables = database.execute("select name from sqlite_master where name = 'experiments'").fetchall()
    if not tables:
        raise InputError(f"{file} is not a database of MLflow: give that of the results, RESULTS/mlflow.db.")


def damage(file: Path) -> str | None:
    """What is wrong with an SQLite file; None if it is whole, empty, or in use and therefore not checked.

    A trigger or a view that is not MLflow's counts as damage.
    """
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            (first,) = database.execute("pragma quick_check(1)").fetchone()
            if first != "ok":
                return str(first).replace("\n", " ")
            foreign = database.execute(FOREIGN).fetchone()
            return None if foreign is None else f"it has the {foreign[0]} {foreign[1]}, which is not MLflow's"
    except sqlite3.OperationalError:  # locked, or not permitted: the connection that writes reports it
        return None
    except sqlite3.DatabaseError as error:
        return str(error)


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        return False


def _check_file(uri: str, named: str) -> None:
    """Raise InputError unless the address has the form sqlite:///FILE and FILE is, or can become, a database."""
    name = uri.partition(":///")[2].partition("?")[0]
    if not name or name.startswith(":memory:"):
        raise InputError(
            f"{named} names no file: give sqlite:///FILE with three slashes, or four for an absolute path."
        )
    if name.startswith("~"):
        raise InputError(
            f"{named}: ~ is not expanded in an address: give {SQLITE}:///{Path(name).expanduser()}"
        )
    file = Path(name).absolute()
    if not file.parent.parent.is_dir():
        raise InputError(f"{named}: there is no folder {file.parent}. Create it or correct the path.")
    if file.is_dir():
        raise InputError(f"{named} is a folder: give a file in it, such as {uri.rstrip('/')}/mlflow.db.")
    if file.is_file() and _first_bytes(file) not in (b"", HEADER):
        raise InputError(f"{named}: {file} is not an SQLite database. Give another file.")
    _refuse_near_name(file, named)


def _first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(len(HEADER))
    except OSError:  # not readable: using the store reports it
        return HEADER


def _refuse_near_name(file: Path, named: str) -> None:
    """Raise InputError if a new database would have almost the name of one beside it: a slip is more likely."""
    others = [path.name for path in file.parent.glob("*.db")]
    if not file.exists() and (near := difflib.get_close_matches(file.name, others, n=1, cutoff=0.8)):
        raise InputError(
            f"{named}: there is no database {file.name}, but there is {near[0]}. Correct the name; to start "
            f"a new database, create an empty file first: touch {file}"
        )


def _plugins() -> list[str]:
    """The schemes of stores that installed plugins of MLflow add."""
    return [point.name for point in entry_points(group="mlflow.tracking_store")]


# Turn the exceptions of MLflow and its database into one sentence each.

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
