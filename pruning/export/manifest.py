"""The manifest of an export: the digests of its files, by which a later export knows that it may replace them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.core import atomic_files
from pruning.core.errors import DamagedError, InputError
from pruning.core.hashing import file_sha256, text_sha256

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
    atomic_files.write_json(folder / RECORD, whole | {OWN: _own_digest(whole)})


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
        record = atomic_files.read_json(path) if path.is_file() and not path.is_symlink() else None
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
