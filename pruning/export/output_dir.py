"""The output directory of an export: when it may be replaced, and how to replace it in one step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pruning.core import atomic_files
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.publish import staged
from pruning.core.units import bytes_text

RECORD = "depth_pruning.json"


def check_target(
    out: Path,
    cell: str | None = None,
    mask: Mask | None = None,
    model: str | None = None,
    force: bool = False,
) -> None:
    """Raise InputError unless a directory is new, empty, or an earlier export that this one may replace.

    An export may replace an earlier export of the same cell, or of the same mask and model. With `force`, it may
    replace any directory that holds a model. Before a search there is no mask yet, so only the cell's key counts.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file: give a directory.")
    record = atomic_files.read_json(out / RECORD) if (out / RECORD).is_file() else {}
    if cell is not None and record.get("cell") == cell:
        return
    if mask is not None and record.get("mask") == mask.to_json() and record["model"]["name"] == model:
        return
    if not force:
        what = "holds another export" if record else "is not empty"
        raise InputError(
            f"{out} {what}: choose another directory, or let `python -m pruning.export` replace it, "
            "with force=true."
        )
    if not (out / "config.json").is_file():
        raise InputError(f"{out} holds no model: even force=true replaces directories of models only.")


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

    Raises InputError if it cannot be created.
    """
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(staged(out))
        except OSError as error:
            raise InputError(
                f"{out} cannot be written ({error.strerror}): choose another directory."
            ) from error
        yield partial
