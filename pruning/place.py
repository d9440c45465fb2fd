"""The directory that an export goes to: what may be replaced, and a way to replace it all at once or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning import files
from pruning.errors import InputError
from pruning.mask import Mask
from pruning.measured import size

RECORD = "depth_pruning.json"


def check_target(
    out: Path,
    cell: str | None = None,
    mask: Mask | None = None,
    model: str | None = None,
    force: bool = False,
) -> None:
    """Raise InputError unless a directory is new, empty, or an earlier export that this one may replace.

    An earlier export of the same cell, or of the same mask and model, is replaced; with `force` any directory of a
    model. Before a search, when no mask is known yet, the cell's key is what counts.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file: give a directory.")
    record = files.read_json(out / RECORD) if (out / RECORD).is_file() else {}
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
    """Raise InputError unless the disk of a directory, which need not exist yet, has room for `needed` bytes."""
    place = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed * 1.05:
        raise InputError(f"the disk of {out} has {size(free)} free and {size(needed)} are needed.")


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A hidden directory beside `out`, which is gone afterwards unless it was renamed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another directory.") from error
    try:
        partial.chmod(0o755)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace(partial: Path, out: Path) -> None:
    """Put a complete directory in the place of what was there."""
    if not out.exists():
        partial.rename(out)
        return
    aside = partial.with_name(f"{partial.name}.before")
    out.rename(aside)
    try:
        partial.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
