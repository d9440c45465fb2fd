"""The environment of a result: versions, commit, device, times."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "hydra-core", "depth-pruning")


class EnvironmentRecord(TypedDict):
    """What the result was computed with."""

    packages: Annotated[dict[str, str], "Versions of Python and of the packages that matter."]
    commit: Annotated[str | None, "The commit of this program; null outside a checkout."]
    device: Annotated[str | None, "The device of the first weights."]
    cpus: NotRequired[Annotated[int | None, "Number of cores of the machine."]]
    started: Annotated[str, "When the last run of the cell started, in UTC."]
    ended: Annotated[str, "When it ended."]


def provenance(started: str, device: str | None) -> EnvironmentRecord:
    """Versions, commit, device and times of a run."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)}
    return {
        "packages": {"python": platform.python_version(), **versions},
        "commit": commit(),
        "device": device,
        "cpus": os.cpu_count(),
        "started": started,
        "ended": now(),
    }


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the code, with `-dirty` if the checkout has uncommitted changes; None outside a checkout."""
    root = Path(__file__).parents[2]
    if (note := root / "COMMIT").exists():  # this code is a copy that was made for jobs
        return note.read_text() or None
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def now() -> str:
    """The current time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
