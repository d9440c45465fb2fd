"""Write a directory so that others see it complete or not at all: build it under a hidden name, then rename it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core.temporary import BEFORE, sweep, temporary_folder


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a hidden directory beside `target`; it is removed afterwards unless it was published.

    First removes hidden directories beside `target` whose process was killed. Raises OSError if the hidden directory
    cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    with temporary_folder(target) as partial:
        yield partial


def publish(partial: Path, target: Path) -> None:
    """Rename a complete directory to `target`. If another process has published `target` first, keep that one."""
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():
            raise


def replace(partial: Path, target: Path, unchanged: Callable[[Path], bool]) -> None:
    """Rename a complete directory to `target`, replacing an existing one; if that fails, the existing one stays.

    `partial` is a directory of `staged`. The existing directory is replaced only if `unchanged` returns True for it
    once it has been moved aside, where no other process finds it. Raises OSError if it returns False.
    """
    if not target.exists():
        partial.rename(target)
        return
    aside = partial.with_name(partial.name + BEFORE)
    target.rename(aside)
    try:
        if not unchanged(aside):
            raise OSError(errno.EBUSY, "another program has just changed it", str(target))
        partial.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
