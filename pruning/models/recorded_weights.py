"""Compare the weights in a directory with those that a result was measured on.

A result records the digest of all bytes. Results of earlier versions record a fingerprint of both ends of each file,
so it cannot be verified that the bytes between are the same. Such a result is used, with a warning, unless a file has
changed since the result was measured.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import cache
from pathlib import Path

from pruning.core.errors import InputError
from pruning.models import adapter, directory
from pruning.models.spec import Model

log = logging.getLogger(__name__)

ROUNDED = 1.0  # results record times to the second


def check_same_weights(model: Model, revision: str, started: str | None) -> None:
    """Raise InputError unless a model in a directory is the one that a result records.

    `revision` is the recorded digest; `started` is the time at which the cell started, in ISO format.
    """
    now = directory.model_digest(model.path, model.gguf_file)
    if now == revision:
        return
    if not earlier(model, revision):
        raise InputError(
            f"model.path={model.path} does not hold the model that the cell was run on (its files have the digest "
            f"{now[:12]}, not {revision[:12]}): give the directory of that model, model.path=DIR."
        )
    if reason := doubt(model, started):
        raise InputError(
            f"the cell was recorded when only the ends of weight files were digested, and {reason}: run the cell "
            "again in another folder (paths.results=DIR)."
        )
    warn_unverified(model.path)


def earlier(model: Model, revision: str) -> bool:
    """Whether `revision` is what an earlier version would have recorded for a model in a directory."""
    if model.source != "local":
        return revision == (model.revision or "main")
    return revision == directory.fingerprint(model.path)


def doubt(model: Model, started: str | None) -> str | None:
    """Why a result of an earlier version may be of other weights than the directory's; None if nothing says so."""
    if adapter.has_adapter(Path(model.path).expanduser()):
        return "the adapter in the directory may have been ignored"
    if started is None:
        return None
    limit = datetime.fromisoformat(started).timestamp() + ROUNDED
    for file in directory.model_files(model.path, model.gguf_file):
        if file.stat().st_mtime > limit:
            return f"{file} has changed since"
    return None


@cache
def warn_unverified(path: str, reason: str | None = None) -> None:
    """Say once for each directory whether results of earlier versions are used; with a `reason`, they are not."""
    start = f"results of model.path={path} were recorded when only the ends of weight files were digested"
    if reason is None:
        log.warning("%s: it cannot be verified that the weights are still the same", start)
    else:
        log.warning("%s, and %s: they are kept, and the cells are run again", start, reason)
