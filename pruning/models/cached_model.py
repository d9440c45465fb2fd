"""Directories of models that are made once and kept in the cache folder: converted or merged models.

The digests of a directory's files stand beside it. A directory whose files differ from them is made again, so a
damaged or edited cache never changes a result.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from pruning.core import atomic_files
from pruning.core.errors import DamagedError
from pruning.core.hashing import file_sha256
from pruning.core.publish import publish, staged
from pruning.core.temporary import sweep
from pruning.core.wheel_assets import cache_errors, cache_folder
from pruning.models.file_digests import file_digests

log = logging.getLogger(__name__)


def cached_model(name: str, make: Callable[[Path], Path]) -> Path:
    """The directory `models/NAME` of the cache folder; it is made on first use, and if its files have changed.

    `make` is given a directory for its files, which is removed afterwards, and returns the directory of the new model
    in it. Raises InputError if the cache cannot be written; a cache that holds the model need not be writable.
    """
    folder = cache_folder() / "models" / name
    if _whole(folder):
        _sweep(folder)
        return folder
    with cache_errors():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _whole(folder):
                _sweep(folder)
                if folder.exists():
                    log.warning("%s is incomplete or has changed, and is made again", folder)
                    shutil.rmtree(folder)
                with staged(folder) as scratch:
                    _put(make(scratch), folder)
    return folder


def _put(made: Path, folder: Path) -> None:
    """Write the digests, then put the directory in place: a directory without digests is made again."""
    digests = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
    atomic_files.write_json(_digests(folder), {"sha256": digests})
    publish(made, folder)


def _whole(folder: Path) -> bool:
    """Whether the directory is there and holds exactly the files that were made."""
    if not folder.is_dir():
        return False
    try:
        record = atomic_files.read_json(_digests(folder))
    except (FileNotFoundError, DamagedError):
        return False
    files = sorted(folder.iterdir())
    if not isinstance(record, Mapping) or not all(path.is_file() for path in files):
        return False
    return record.get("sha256") == {path.name: digest for path, digest in file_digests(files).items()}


def _digests(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left beside `folder`."""
    sweep(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.{'?' * 8}"):  # the form of the name in earlier versions
        shutil.rmtree(left, ignore_errors=True)
