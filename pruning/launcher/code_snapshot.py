"""The copy of the code that jobs run, in the results folder; submissions of the same code share one copy.

A job may wait for days while the checkout is edited, so it runs this copy. Only what a job imports is copied:
about 1 MB. Jobs run whatever the copy holds, so a copy that is already there is compared with the code before it is
used again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from pruning.core.errors import InputError
from pruning.core.publish import publish, staged

ROOT = Path(__file__).parents[2]
PARTS = ("pruning", "conf")
ANALYSIS = ROOT / "pruning" / "analysis"  # exists only in an installed package; no job needs it
LEFT_OUT = {".pyc", ".pyo"}
CACHE = "__pycache__"
COMMIT = "COMMIT"  # the file that holds the commit: a copy has no git history


def snapshot(results: Path) -> Path:
    """Copy the code unless the same code is there already; returns the folder of the copy.

    Raises InputError if there is a folder of this name that holds anything but this code.
    """
    files = list(_files())
    digest = _digest(ROOT, files)
    folder = results / "code" / digest[:12]
    if not os.path.lexists(folder):
        _copy(files, folder)
    names = [path.relative_to(ROOT) for path in files]
    if (
        not _holds_only(folder, {*names, Path(COMMIT)})
        or _digest(folder, map(folder.joinpath, names)) != digest
    ):
        raise InputError(
            f"{folder} is not the copy of this program's code that its name says, and jobs would run what it holds. "
            "If no job is waiting, remove the folder and run the command again."
        )
    return folder


def _digest(root: Path, files: Iterable[Path]) -> str:
    """The digest of the names and the contents of files below `root`."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _holds_only(folder: Path, names: Set[Path]) -> bool:
    """Whether a folder holds exactly these files and no links.

    Bytecode in it cannot be checked, so it is removed; if that fails, the answer is False.
    """
    found: set[Path] = set()
    for where, folders, files in os.walk(folder):
        paths = [Path(where, name) for name in files]
        if any(path.is_symlink() for path in (Path(where), *paths, *(Path(where, name) for name in folders))):
            return False
        if Path(where).name == CACHE and not folders:
            try:
                for path in paths:
                    path.unlink(missing_ok=True)  # the next job writes it again
            except OSError:
                return False
        else:
            found.update(path.relative_to(folder) for path in paths)
    return found == names


def _files() -> Iterator[Path]:
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*")):
            if path.is_file() and path.suffix not in LEFT_OUT and ANALYSIS not in path.parents:
                yield path


def _copy(files: list[Path], folder: Path) -> None:
    """Copy all files or none, because another command can be copying the same code at this moment."""
    from pruning.core.provenance import commit

    with staged(folder) as partial:
        for path in files:
            target = partial / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (partial / COMMIT).write_text(commit() or "")
        publish(partial, folder)
