"""The key of a cell whose model is in a directory: the key of its existing folder, if there is one.

A key begins with the model's name. The name is not part of the cell's identity: the directory can have moved, and
earlier versions named each such model "local". So a folder with the same digest is the cell's folder, whatever its
name. Earlier versions computed the digest from both ends of each file. If a cell has a finished result under such a
key, that result is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from glob import escape
from pathlib import Path

from pruning.core.result import DoneResult, read_result
from pruning.models import adapter, recorded_weights
from pruning.models.spec import Model

log = logging.getLogger(__name__)


def key_in(results: Path, model: Model, stem: str, digest: str, earlier_digest: Callable[[], str]) -> str:
    """The key of a cell: `NAME-STEM-DIGEST`.

    NAME is the model's name, unless the results folder holds the cell under another name. `earlier_digest` computes
    the digest as earlier versions did. Raises DamagedError if the result of an earlier version is damaged.
    """
    own = f"{model.name}-{stem}-{digest}"
    if (results / own).exists():
        return own
    folders = sorted(results.glob(f"*-{escape(stem)}-????????"))
    if same := [folder.name for folder in folders if folder.name.endswith(f"-{digest}")]:
        return same[0]
    if not folders:
        return own
    ending = f"-{earlier_digest()}"
    for folder in folders:
        result = read_result(folder) if folder.name.endswith(ending) else None
        if result is not None and result["status"] == "done" and _usable(model, result, folder):
            return folder.name
    return own


def _usable(model: Model, result: DoneResult, folder: Path) -> bool:
    """Whether a finished result of an earlier version is used. A warning says what cannot be verified."""
    if adapter.has_adapter(Path(model.path).expanduser()):
        log.warning(
            "%s is not used: it was recorded by a version that may have ignored the adapter in %s",
            folder,
            model.path,
        )
        return False
    if recorded_weights.earlier(model, result["model"]["revision"]):
        reason = recorded_weights.doubt(model, result["environment"].get("started"))
        recorded_weights.warn_unverified(model.path, reason)
        return reason is None
    return False
