"""Write a directory so that others see it complete or not at all: build it under a hidden name, then rename it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a hidden directory beside `target`; it is removed afterwards unless it was published.

    Raises OSError if the hidden directory cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        partial.chmod(0o755)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, target: Path) -> None:
    """Rename a complete directory to `target`. If another process has published `target` first, keep that one."""
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():
            raise


def replace(partial: Path, target: Path) -> None:
    """Rename a complete directory to `target`, replacing an existing one; if that fails, the existing one stays."""
    if not target.exists():
        partial.rename(target)
        return
    aside = partial.with_name(f"{partial.name}.before")
    target.rename(aside)
    try:
        partial.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
