"""The output directory of an export: where it may be, what it may replace, and how to replace it in one step."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unwritable
from pruning.core.records import NAME as RESULT
from pruning.core.records import SMALLER
from pruning.core.storage import file_sha256, staged, sweep, text_sha256
from pruning.core.units import bytes_text
from pruning.models.handle import Model

RECORD = "depth_pruning.json"
OWN = "sha256"  # the key of the record's own digest
TEMPLATES = (
    "additional_chat_templates"  # transformers' folder for further templates, the only one in an export
)
SAME = ("model", "mask", "source_sha256")  # what is never replaced by another one
CURE = "Move these files away, or choose another directory (force=true does not replace them)."


def directory(out: str | Path) -> Path:
    """The absolute path of an output directory; links are followed. Raises InputError if there is no such path."""
    if not str(out).strip() or str(out) == ".":
        raise InputError(
            f"the directory for the smaller model is '{out}': give a new directory, such as smaller."
        )
    try:
        found = Path(out).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{out} is no directory ({error}): choose another directory.") from error
    if found == found.parent:
        raise InputError(f"out={out} is the root of the file system: give a new directory, such as smaller.")
    return found


def check_place(out: Path, model: Model, results: Path | None = None) -> None:
    """Raise InputError if `out` is inside the folder of the model that is cut, or inside a results folder.

    In a results folder, only the directory SMALLER of a cell is allowed. `results` is a results folder that need not
    hold a cell yet. `out` is a path without links. A GGUF file that is given by its path has no folder of its own.
    """
    own = [Path(model.path).expanduser().resolve()] if model.in_directory and model.gguf_file is None else []
    named = [] if results is None else [results.resolve()]
    usual = out.name == SMALLER and (out.parent.parent in named or _is_cell(out.parent))
    for folder in (out, *out.parents):
        if folder in own:
            raise InputError(
                f"out={out} is inside {folder}, the folder of the model itself: choose a directory elsewhere."
            )
        if not usual and (folder in named or _is_cell(folder) or _holds_cells(folder)):
            raise InputError(
                f"out={out} is inside {folder}, which holds results of searches: choose a directory elsewhere, or "
                f"{SMALLER} in the folder of a cell."
            )


def _holds_cells(folder: Path) -> bool:
    with suppress(OSError):
        return any(_is_cell(path.parent) for path in folder.glob(f"*/{RESULT}"))
    return False


def _is_cell(folder: Path) -> bool:
    """Whether a folder is that of a cell, whose name is the cell's key."""
    with suppress(OSError, DamagedError):
        record = storage.read_json(folder / RESULT) if (folder / RESULT).is_file() else None
        return isinstance(record, dict) and record.get("cell") == folder.name
    return False


def check_writable(out: Path) -> None:
    """Raise OSError if nothing can be created or replaced at `out`."""
    parent = next(folder for folder in out.parents if folder.exists())
    for folder in (parent, *([out] if out.is_dir() else [])):
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_space(out: Path, needed: int) -> None:
    """Raise InputError if the disk of a directory, which need not exist yet, lacks room for `needed` bytes and 5%."""
    free = shutil.disk_usage(next(folder for folder in out.parents if folder.exists())).free
    if free < needed * 1.05:
        raise InputError(
            f"the disk of {out} has {bytes_text(free)} free and {bytes_text(needed)} are needed: free some space, or "
            "choose another directory."
        )


# An earlier export, and whether it may be replaced. Its record holds the digests of its files.


def check_target(out: Path) -> Mapping[str, Any] | None:
    """The record of the earlier export that an export to `out` would replace; None if `out` is new or empty.

    Raises InputError if `out` cannot be written, or holds anything but unchanged files of an earlier export.
    """
    try:
        sweep(out.parent)
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file: give a directory, or a file that ends in .gguf.")
        check_writable(out)
        if not out.exists():
            return None
        if os.path.ismount(out):
            raise InputError(f"{out} is a mount point, which cannot be replaced: give a directory in it.")
        return _earlier_export(out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be used for an export ({error.strerror}): choose another directory."
        ) from error


def _earlier_export(out: Path) -> Mapping[str, Any] | None:
    """The record of the export in the directory `out`; None if the directory is empty. All files are read."""
    paths, templates = sorted(out.iterdir()), out / TEMPLATES
    if templates.is_dir() and not templates.is_symlink():  # other folders are not listed: they can be large
        paths += sorted(templates.iterdir())
    if not (before := {str(one.relative_to(out)): one.lstat().st_mode for one in paths}):
        return None
    path = out / RECORD
    record: Any = None
    with suppress(DamagedError, OSError):
        record = storage.read_json(path) if path.is_file() and not path.is_symlink() else None
    known = isinstance(record, dict) and isinstance(record.get("files"), dict)
    if not known or record.pop(OWN, None) != _own_digest(record):
        raise InputError(
            f"{out} holds {_names(before)}, and no export of this version. "
            "Move the directory away, or choose another (force=true does not replace it)."
        )
    files: Mapping[str, str] = record["files"]
    folders = {TEMPLATES} if any(name.startswith(f"{TEMPLATES}/") for name in files) else set()
    foreign = [
        name
        for name, mode in before.items()
        if not (name in folders if stat.S_ISDIR(mode) else stat.S_ISREG(mode) and name in (*files, RECORD))
    ]
    if foreign:
        raise InputError(f"{out} holds {_names(foreign)}, which the export there did not write. {CURE}")
    if changed := [name for name in files if name in before and file_sha256(out / name) != files[name]]:
        raise InputError(f"{out}: {_names(changed)} changed after the export there was written. {CURE}")
    found: Mapping[str, Any] = record
    return found


def check_same(
    out: Path,
    earlier: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    force: bool,
    launched: str | None = None,
) -> None:
    """Raise InputError unless the record of an earlier export, if there is one, has the wanted entries.

    With `force`, all but the model and the mask may differ. `launched` is the key of the cell whose launch exports:
    its own earlier export is replaced in any case.
    """
    if earlier is None or (launched is not None and earlier.get("cell") == launched):
        return
    other = [name for name, value in wanted.items() if earlier.get(name) != value]
    if foreign := [name for name in other if name in SAME]:
        raise InputError(
            f"{out} holds another export (of another {' and another '.join(foreign)}): choose another place, or "
            "remove this one."
        )
    if other and not force:
        named = " and another ".join("healing" if name == "healed" else name for name in other)
        raise InputError(
            f"{out} holds an export of this model and mask with another {named}: choose another place, or let "
            "`depth-pruning export` replace it, with force=true."
        )


def write_record(folder: Path, record: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Write the record of an export, with the digests of all other files in `folder`; `known` holds some of them."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {name: known.get(name) or file_sha256(folder / name) for name in names}
    whole = {"format": 2, **record, "files": files}
    storage.write_json(folder / RECORD, whole | {OWN: _own_digest(whole)})


def _own_digest(record: Mapping[str, Any]) -> str:
    return text_sha256(json.dumps(record, sort_keys=True))


def _names(names: Iterable[str]) -> str:
    """Up to five names, and how many there are beyond."""
    listed = list(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more


# Write beside the target, and put the whole in place.


@contextmanager
def staging_directory(out: Path) -> Iterator[Path]:
    """Yield a new hidden directory beside `out`; it is removed afterwards unless it was published.

    Raises InputError if it cannot be created or filled, for example because the disk is full.
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


def put_in_place(partial: Path, out: Path, check: Callable[[Mapping[str, Any] | None], None]) -> None:
    """Rename a complete export to `out`, which replaces an earlier export.

    `out` can have changed since the start, so it is checked again: `check` raises InputError if what has this record
    must stay.
    """
    check(check_target(out))
    storage.replace(partial, out)
