"""The output directory of an export: where it may be, what it may replace, and how to replace it in one step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unwritable
from pruning.core.records import MASK, SMALLER
from pruning.core.records import NAME as RESULT
from pruning.core.storage import file_sha256, staged, sweep
from pruning.core.units import bytes_text
from pruning.models.handle import Model

RECORD = "depth_pruning.json"
TEMPLATES = (
    "additional_chat_templates"  # transformers' folder for further templates, the only folder in an export
)
CURE = "Move this away, or choose another directory (force=true does not replace it)."


def directory(out: str | Path) -> Path:
    """An output directory's absolute path, with links resolved. Raises InputError if it is invalid, `.` or `/`."""
    if not str(out).strip() or str(out) == ".":
        raise InputError(
            f"the directory for the smaller model is '{out}': give a new directory, such as smaller."
        )
    try:
        found = Path(out).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{out} is not a directory ({error}): choose another directory.") from error
    if found == found.parent:
        raise InputError(f"out={out} is the root of the file system: give a new directory, such as smaller.")
    return found


def check_place(out: Path, model: Model) -> None:
    """Raise InputError if `out`, a path without links, is inside the model's folder or inside a cell's folder.

    In a cell's folder, only the directory SMALLER is allowed. If the model is a GGUF file that is given by its path,
    `out` may be in the folder of that file.
    """
    own = [Path(model.path).expanduser().resolve()] if model.in_directory and model.gguf_file is None else []
    for folder in (out, *out.parents):
        if folder in own:
            raise InputError(
                f"out={out} is inside {folder}, the folder of the model itself: choose a directory elsewhere."
            )
        if all((folder / name).is_file() for name in (RESULT, MASK)) and out != folder / SMALLER:
            raise InputError(
                f"out={out} is inside {folder}, which holds the result of a search: choose a directory elsewhere, or "
                f"{SMALLER} in that folder."
            )


def check_writable(out: Path) -> None:
    """Raise InputError if nothing can be written at `out`. Removes old unfinished exports next to it."""
    try:
        sweep(out.parent)
        parent = next(folder for folder in out.parents if folder.exists())
        for folder in (parent, *([out] if out.is_dir() else [])):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another place.") from error


def check_space(out: Path, needed: int) -> None:
    """Raise InputError unless the disk of `out` has `needed` bytes and 5% more free; `out` need not exist."""
    free = shutil.disk_usage(next(folder for folder in out.parents if folder.exists())).free
    if free < needed * 1.05:
        raise InputError(
            f"the disk of {out} has {bytes_text(free)} free and {bytes_text(needed)} are needed: free some space, or "
            "choose another directory."
        )


# An earlier export, and whether it may be replaced. Its record contains the digests of its files.


def check_target(out: Path) -> Mapping[str, Any] | None:
    """The record of the earlier export that an export to `out` would replace; None if `out` is new or empty.

    Raises InputError if `out` cannot be written, or has anything other than an earlier export's unchanged files.
    """
    check_writable(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a directory, or a file that ends in .gguf.")
    if not (names := sorted(path.name for path in out.iterdir()) if out.exists() else []):
        return None
    path, record = out / RECORD, None
    with suppress(DamagedError, OSError):
        record = storage.read_json(path) if path.is_file() and not path.is_symlink() else None
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise InputError(f"{out} holds {names[0]}, and no export of this program. {CURE}")
    files: Mapping[str, str] = record["files"]
    own = {RECORD, *files, *(str(Path(name).parent) for name in files)}
    there = {str(path.relative_to(out)): path for path in sorted(out.rglob("*"))}
    if foreign := [name for name, path in there.items() if name not in own or path.is_symlink()]:
        raise InputError(f"{out} holds {foreign[0]}, which the export there did not write. {CURE}")
    if changed := [name for name in files if name in there and file_sha256(there[name]) != files[name]]:
        raise InputError(f"{out}: {changed[0]} changed after the export there was written. {CURE}")
    found: Mapping[str, Any] = record
    return found


def check_same(out: Path, earlier: Mapping[str, Any] | None, wanted: Mapping[str, Any], force: bool) -> None:
    """Raise InputError if an earlier export's record lacks a wanted entry or has a different value for it.

    If `force` is true or `earlier` is None (there is no earlier export), nothing is raised.
    """
    other = [] if earlier is None else [name for name, value in wanted.items() if earlier.get(name) != value]
    if other and not force:
        named = " and another ".join("healing" if name == "healed" else name for name in other)
        raise InputError(
            f"{out} holds an export with another {named}: choose another place, or replace it with "
            "`depth-pruning export ... force=true`."
        )


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an export, with the digests of all other files in `folder`."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(folder)): file_sha256(path) for path in paths}
    storage.write_record(folder / RECORD, {**record, "files": files})


# Write beside the target, then move the complete directory into place.


@contextmanager
def staging_directory(out: Path) -> Iterator[Path]:
    """Yield a new hidden directory beside `out`; it is removed afterwards unless it was moved into place.

    Raises InputError if the directory cannot be created or filled, for example because the disk is full.
    """
    try:
        with staged(out) as partial:
            yield partial
    except Exception as error:
        if (reason := unwritable(error)) is None:
            raise
        raise InputError(
            f"{out} cannot be written ({reason}), and nothing was changed: free some space, or choose another "
            "directory."
        ) from error
