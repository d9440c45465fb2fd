"""The output directory of an export: what it may replace, and how to replace it in one step."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, unwritable
from pruning.core.records import NAME as RESULT
from pruning.core.records import SMALLER
from pruning.core.storage import file_sha256, staged, sweep, text_sha256
from pruning.core.units import bytes_text
from pruning.models.model import Model

CHANGED_BY_LAUNCH = ("healed", "compensation")  # what a launch of the same cell can change in its record


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
        if usual:
            continue
        if folder in named or _is_cell(folder) or any(map(_is_cell, _cells(folder))):
            raise InputError(
                f"out={out} is inside {folder}, which holds results of searches: choose a directory elsewhere, or "
                f"{SMALLER} in the folder of a cell."
            )


def _cells(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder that can be cells."""
    with suppress(OSError):
        yield from (path.parent for path in folder.glob(f"*/{RESULT}"))


def _is_cell(folder: Path) -> bool:
    """Whether a folder is that of a cell, whose name is the cell's key."""
    with suppress(OSError, DamagedError):
        record = storage.read_json(folder / RESULT) if (folder / RESULT).is_file() else None
        return isinstance(record, dict) and record.get("cell") == folder.name
    return False


def check_target(out: Path) -> EarlierExport | None:
    """The earlier export that an export to `out` would replace; None if `out` is new or empty.

    Raises InputError if `out` cannot be written, or holds anything but unchanged files of an earlier export.
    """
    try:
        sweep(out.parent)  # this can put back an export whose replacement was killed
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file: give a directory, or a file that ends in .gguf.")
        check_writable(out)
        if not out.exists():
            return None
        if os.path.ismount(out):
            raise InputError(f"{out} is a mount point, which cannot be replaced: give a directory in it.")
        return earlier_export(out)
    except OSError as error:
        raise InputError(
            f"{out} cannot be used for an export ({error.strerror}): choose another directory."
        ) from error


def check_same(
    out: Path,
    earlier: EarlierExport | None,
    wanted: Mapping[str, Any],
    force: bool,
    launched: str | None = None,
) -> None:
    """Raise InputError if an earlier export is not one of the same model and mask.

    `wanted` is what this export would record. With `force`, an export of the same model and mask may differ in form:
    its precision, its compensation and its healing. `launched` is the key of the cell whose launch exports. If this
    cell wrote the earlier export, it may differ in what a launch changes: in its healing and its repair.
    """
    if earlier is None:
        return
    changing = CHANGED_BY_LAUNCH if written_by(earlier, launched) else ()
    other = [name for name, value in wanted.items() if earlier.record.get(name) != value]
    if model_or_mask := [name for name in other if name in ("model", "mask")]:
        raise InputError(
            f"{out} holds another export (of another {' and another '.join(model_or_mask)}): choose another "
            "directory, or remove this one."
        )
    if (fixed := [name for name in other if name not in changing]) and not force:
        named = " and another ".join("healing" if name == "healed" else name for name in fixed)
        raise InputError(
            f"{out} holds an export of this model and mask with another {named}: choose "
            "another directory, or let `python -m pruning.export` replace it, with force=true."
        )


def written_by(earlier: EarlierExport, cell: str | None) -> bool:
    """Whether this cell wrote an earlier export; False if `cell` is None."""
    return cell is not None and earlier.record.get("cell") == cell


def check_writable(out: Path) -> None:
    """Raise OSError if nothing can be created or replaced at `out`."""
    for folder in (
        next(parent for parent in out.parents if parent.exists()),
        *([out] if out.is_dir() else []),
    ):
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_space(out: Path, needed: int) -> None:
    """Raise InputError if the disk of a directory has too little space for `needed` bytes plus 5%.

    The directory need not exist yet.
    """
    parent = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed * 1.05:
        raise InputError(
            f"the disk of {out} has {bytes_text(free)} free and {bytes_text(needed)} are needed: free some space, or "
            "choose another directory."
        )


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


def put_in_place(
    partial: Path, out: Path, earlier: EarlierExport | None, check: Callable[[EarlierExport | None], None]
) -> None:
    """Rename a complete export to `out`, which replaces `earlier`, the export that was there at the start.

    If `out` has changed meanwhile, it is checked again. `check` raises InputError if what is there must stay.
    """
    if (stamps(out) if out.exists() else {}) != ({} if earlier is None else earlier.stamps):
        earlier = check_target(out)
        check(earlier)
    expected = {} if earlier is None else earlier.stamps
    storage.replace(partial, out, lambda folder: stamps(folder) == expected)


# The manifest of an export: the digests of its files, by which a later export knows that it may replace them.

RECORD = "depth_pruning.json"
FORMAT = 2  # format 1 had no digests
# The one folder in an export: transformers keeps further templates there.
TEMPLATES = "additional_chat_templates"
OWN = "sha256"  # the key of the record's own digest
CURE = "Move these files away, or choose another directory (force=true does not replace them)."

Stamps = Mapping[str, tuple[int, int, int, int]]


@dataclass(frozen=True)
class EarlierExport:
    """An export that is complete and unchanged: its record, and the stamps of its files when they were read."""

    record: Mapping[str, Any]
    stamps: Stamps


def write_record(folder: Path, record: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Write the record of an export, with the digests of all other files in `folder`; `known` holds some of them."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {name: known.get(name) or file_sha256(folder / name) for name in names}
    whole = {"format": FORMAT, **record, "files": files}
    storage.write_json(folder / RECORD, whole | {OWN: _own_digest(whole)})


def earlier_export(out: Path) -> EarlierExport | None:
    """The export in the directory `out`; None if the directory is empty. All files are read.

    Raises InputError, which names the files, if the directory holds anything but unchanged files of an export.
    """
    before = stamps(out)
    if not before:
        return None
    record = _record(out)
    if record is None:
        raise InputError(
            f"{out} holds {_names(before)}, and no export of this version. "
            "Move the directory away, or choose another (force=true does not replace it)."
        )
    files: Mapping[str, str] = record["files"]
    if foreign := [name for name, stamp in before.items() if not _written(name, stamp, files)]:
        raise InputError(f"{out} holds {_names(foreign)}, which the export there did not write. {CURE}")
    if changed := [name for name in files if name in before and file_sha256(out / name) != files[name]]:
        raise InputError(f"{out}: {_names(changed)} changed after the export there was written. {CURE}")
    return EarlierExport(record, before)


def stamps(folder: Path) -> Stamps:
    """For each entry of a directory: mode, size, time of the last change in ns, and inode. Links are not followed.

    The entries of the folder for chat templates are listed too, of other folders not, because they can be large.
    """
    paths = sorted(folder.iterdir())
    templates = folder / TEMPLATES
    if templates.is_dir() and not templates.is_symlink():
        paths += sorted(templates.iterdir())
    return {str(path.relative_to(folder)): _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino


def _written(name: str, stamp: tuple[int, int, int, int], files: Iterable[str]) -> bool:
    """Whether an entry of a directory is a file of an export, or its folder for chat templates."""
    if stat.S_ISDIR(stamp[0]):
        return name == TEMPLATES and any(file.startswith(f"{TEMPLATES}/") for file in files)
    return stat.S_ISREG(stamp[0]) and name in (*files, RECORD)


def _record(out: Path) -> Mapping[str, Any] | None:
    """The record in a directory; None if there is none, or if it is not as an export of this version wrote it."""
    path = out / RECORD
    try:
        record = storage.read_json(path) if path.is_file() and not path.is_symlink() else None
    except (DamagedError, OSError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        return None
    return record if record.pop(OWN, None) == _own_digest(record) else None


def _own_digest(record: Mapping[str, Any]) -> str:
    return text_sha256(json.dumps(record, sort_keys=True))


def _names(names: Iterable[str]) -> str:
    """Up to five names, and how many there are beyond."""
    listed = list(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more
