"""Lock a cell while it runs, and meanwhile copy log messages into the cell's folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pruning.core.atomic_files import appending, check_links
from pruning.core.errors import BusyError
from pruning.core.result import LOG
from pruning.distributed import collectives

if TYPE_CHECKING:
    from pruning.runs.cell import Cell


@contextmanager
def cell_lock(cell: Cell) -> Iterator[None]:
    """Lock a cell; the first rank does this for all ranks. Raises BusyError if another process has the lock."""
    lock = FileLock(cell.folder / ".lock", timeout=0)

    def take() -> None:
        check_folder(cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{cell.key} is being run by another process.") from None

    collectives.on_first(take)
    try:
        with _logged(cell.folder / LOG):
            yield
    finally:
        lock.release()


def check_folder(cell: Cell) -> None:
    """Raise InputError if a folder that the cell writes to is a symbolic link: what it leads to may be somebody's."""
    check_links(cell.results, cell.folder)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Within this context, the first rank's log messages are also written to the cell's log file."""
    if not collectives.is_first():
        yield
        return
    stream = appending(path)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        stream.close()
