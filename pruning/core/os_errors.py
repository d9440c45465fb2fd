"""Errors of the operating system (a full disk, no permission, a directory instead of a file) as plain sentences."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# If one of these occurs, every later write fails too.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}

REASONS = {
    errno.ENOENT: "it does not exist: check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder, and a file is needed: give the path of a file",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter one",
    errno.ELOOP: "it is a symbolic link or no ordinary file: remove it",
    errno.ENXIO: "it is a symbolic link or no ordinary file: remove it",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n`",
    errno.ESTALE: "the network file system has lost the file: run the same command again",
    errno.EIO: "the disk reports a fault: check it, or use another disk",
}


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full or that a quota is used up."""
    return isinstance(error, OSError) and error.errno in NO_SPACE


def sentence(error: OSError) -> str:
    """One or two sentences for the user: the path, what is wrong with it, and what to do."""
    path = _path(error)
    if error.errno in NO_SPACE:
        return (
            f"{path or 'a file'} cannot be written, because the disk is full or a quota is used up: free some space "
            "and run the same command again. Everything finished so far is kept."
        )
    if path and _is_cache(Path(path)):
        return (
            f"{path}, a folder for fetched models and texts, cannot be used ({_reason(error)}): choose another with "
            "the environment variable DEPTH_PRUNING_CACHE=DIR."
        )
    if error.errno in DENIED:
        return (
            f"{path or 'a file'} is not accessible ({_reason(error)}): ask its owner for permission, or choose "
            "another path (paths.results=DIR for results)."
        )
    if path and error.errno in REASONS:
        return f"{path} cannot be used: {REASONS[error.errno]}."
    return f"{path + ': ' if path else ''}{_reason(error)}."


def _reason(error: OSError) -> str:
    text = error.strerror or str(error).strip() or type(error).__name__
    return (text[:1].lower() + text[1:]).splitlines()[0].rstrip(".")


def _path(error: OSError) -> str:
    name = error.filename2 or error.filename
    return "" if name is None or isinstance(name, int) else os.fsdecode(name)


def _is_cache(path: Path) -> bool:
    """Whether a path is the cache folder, is within it, or is a folder that the cache folder needs."""
    from pruning.core.wheel_assets import cache_folder

    cache = cache_folder().absolute()
    return path.is_relative_to(cache) or (path != Path(path.anchor) and cache.is_relative_to(path))
