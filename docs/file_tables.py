"""The tables of keys in docs/results_folder.md, from the types that describe the files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints

from docs.marked_tables import Tables
from pruning.core.result import DoneResult, FailedResult
from pruning.core.trace import TraceLine
from pruning.healing.curve import Point
from pruning.launcher.submission_record import JobsRecord, SubmissionRecord

FILES = {
    "result.json of a finished cell": DoneResult,
    "result.json of a failed cell": FailedResult,
    "heal.jsonl": Point,
    "trace.jsonl": TraceLine,
    "submission.json": SubmissionRecord,
    "jobs.json": JobsRecord,
}


def table(record: Any) -> str:
    """A table of all keys of a TypedDict. Keys of a nested record include the path to that record."""
    return "\n".join(
        ["| key | meaning |", "|---|---|", *(f"| `{key}` | {text} |" for key, text in keys(record))]
    )


def keys(record: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with its description. Keys that may be absent are marked."""
    for name, hint in get_type_hints(record, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        kind, text = get_args(get_args(hint)[0] if optional else hint)[:2]
        yield f"{path}{name}", f"{text} May be absent." if optional and "only" not in text.lower() else text
        for nested in _records(kind):
            yield from keys(nested, f"{path}{name}.")


def _records(kind: Any) -> Iterator[Any]:
    """The TypedDicts in a type: the type itself, or the TypedDicts within a list or an optional type."""
    if hasattr(kind, "__required_keys__"):
        yield kind
    for part in get_args(kind) if get_origin(kind) is not Annotated else ():
        yield from _records(part)


TABLES: Tables = {file: partial(table, record) for file, record in FILES.items()}
