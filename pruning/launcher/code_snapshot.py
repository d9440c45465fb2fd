"""The copy of the code that jobs run, in the results folder; submissions of the same code share one copy.

A job may wait for days while the checkout is edited, so it runs this copy. Only what a job imports is copied:
about 1 MB.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pruning.core.publish import publish, staged

ROOT = Path(__file__).parents[2]
PARTS = ("pruning", "conf")
ANALYSIS = ROOT / "pruning" / "analysis"  # exists only in an installed package; no job needs it
LEFT_OUT = {".pyc", ".pyo"}
COMMIT = "COMMIT"  # the file that holds the commit: a copy has no git history


def snapshot(results: Path) -> Path:
    """Copy the code unless the same code is there already; returns the folder of the copy."""
    files = list(_files())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    folder = results / "code" / digest.hexdigest()[:12]
    if not folder.exists():
        _copy(files, folder)
    return folder


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
