"""Whether the model hub can be reached, found out once and fast, and the commits of what came from it.

Without a network, huggingface_hub tries each request six times, for half a minute, and prints two lines for each
try. So one connection is tried first. If it fails, the libraries are switched to their offline mode, in which they
read their cache and fail at once.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path

from pruning.core.errors import InputError, first_line

log = logging.getLogger(__name__)

SECONDS = 5.0  # how long to wait for the connection


@lru_cache(maxsize=1)
def use_hub() -> None:
    """Switch huggingface_hub, transformers and datasets to offline mode if the hub cannot be reached.

    This is done at most once in a process. Proxies are used as huggingface_hub uses them.
    """
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return
    # The libraries log to stderr themselves, and also through the root logger, so each line would appear twice.
    logging.getLogger("huggingface_hub").propagate = False
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS, follow_redirects=False)
    except Exception as error:  # the class depends on the library's HTTP client
        log.warning(
            "the hub %s cannot be reached (%s): only files in the cache are used",
            constants.ENDPOINT,
            first_line(error),
        )
        constants.HF_HUB_OFFLINE = True
        _datasets_offline()


def check_no_folder(name: str, setting: str) -> None:
    """Raise InputError if the current folder has a folder with the name of a hub repository, which would be read.

    Names such as ./DIR and /DIR are places and no names of repositories.
    """
    if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) and Path(name).is_dir():
        raise InputError(
            f"{setting}={name} is a name on the hub, and the current folder has a folder of this name, which would "
            f"be read instead: write ./{name} if you mean the folder, else start from another folder."
        )


def commit_of(name: str, revision: str | None = None, file: str = "config.json") -> str | None:
    """The commit of a repository of the hub whose file is in the cache; None if it is not.

    The models of transformers no longer say from which commit they were loaded.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    if not isinstance(found, str):
        return None
    parts = Path(found).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _datasets_offline() -> None:
    """Switch `datasets` to offline mode. It copies the setting when it is imported, which can be before or after."""
    import sys

    if (config := sys.modules.get("datasets.config")) is not None:
        config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True  # type: ignore[attr-defined]
