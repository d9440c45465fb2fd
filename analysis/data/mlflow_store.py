"""Turn an MLflow store or an archive into a temporary results folder, so that figures can be drawn from it.

python -m analysis.fig1_masks --results sqlite:////data/results/mlflow.db --study demo
python -m analysis.report --results http://tracking.example.org:5000 --study demo
python -m analysis.report --results small.tar.xz --study small

The tracker records each cell's files as artifacts (`pruning.tracking`). These files are downloaded into a
temporary folder, which is read like any other results folder. If a study lists a cell that has no run, the status of
the cell is missing. The calibration samples are not in MLflow.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pruning.core import study_list, study_tags
from pruning.core.errors import InputError, PruningError
from pruning.tracking.client import connect
from pruning.tracking.store_errors import reason

from . import archive
from .errors import NothingToRead
from .unpack import unpack

log = logging.getLogger(__name__)

FILES = ("result.json", "mask.json", "trace.jsonl", "launch.log")
EXPERIMENT = "depth-pruning"

_URI = re.compile(r"[a-z][a-z0-9+]+://")  # at least two letters, so that no Windows drive matches
_folders: list[tempfile.TemporaryDirectory[str]] = []  # deleted when the program ends


def is_store(results: Path | str) -> bool:
    """Whether `results` is a tracking server, a database or an archive, and not a folder."""
    return is_archive(results) or _URI.match(str(results)) is not None


def expanded(results: str) -> str:
    """A path with the home folder in place of `~`; addresses of stores are unchanged."""
    return str(Path(results).expanduser()) if results.startswith("~") else results


def is_archive(results: Path | str) -> bool:
    """Whether the name has the suffix of the archives that `analysis.archive` packs."""
    return str(results).endswith(archive.SUFFIX)


@cache
def folder(results: Path | str) -> Path:
    """The results folder itself, or a temporary folder with the contents of an MLflow store or an archive.

    Raises NothingToRead if the store or the archive cannot be read.
    """
    if not is_store(results):
        return Path(results)
    _folders.append(tempfile.TemporaryDirectory(prefix="depth-pruning-"))
    target = Path(_folders[-1].name)
    if is_archive(results):
        _lay_out(Path(results), target)
    else:
        copy(str(results), target)
    return target


def _lay_out(packed: Path, target: Path) -> None:
    try:
        unpack(packed, target)
    except InputError as error:
        raise NothingToRead(str(error)) from error


def copy(uri: str, target: Path, experiment: str = EXPERIMENT) -> None:
    """Copy the runs of an experiment into a results folder.

    Raises NothingToRead if the store cannot be read or has no run of the experiment.
    """
    try:
        client = connect(uri)
        recorded = client.get_experiment_by_name(experiment)
        studies = {} if recorded is None else study_tags.read_studies(recorded.tags)
        for run in () if recorded is None else _runs(client, recorded.experiment_id):
            cell = run.data.tags["cell"]
            for study in filter(None, run.data.tags.get("sweep", "").split(", ")):
                studies.setdefault(study, []).append(cell)
            _download(client, run.info.run_id, target / cell)
    except PruningError as error:
        raise NothingToRead(str(error)) from error
    except Exception as error:  # a client can raise any exception
        raise NothingToRead(f"cannot read the MLflow store {uri}: {reason(error)}") from error
    if not studies:
        raise NothingToRead(f"no run of an experiment '{experiment}' in the MLflow store {uri}.")
    for study, cells in studies.items():
        study_list.write_study(target, study, cells)


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    """Each run that records a cell, oldest first."""
    token: Any = ""
    while token is not None:
        order = ["attributes.start_time ASC"]
        page = client.search_runs([experiment], "tags.cell != ''", order_by=order, page_token=token or None)
        yield from page
        token = page.token or None


def _download(client: Any, run: str, target: Path) -> None:
    """Download the files of a cell. If its run has no result.json, warn: the cell will count as missing."""
    target.mkdir(parents=True, exist_ok=True)
    artifacts = {artifact.path for artifact in client.list_artifacts(run)}
    for name in FILES:
        if name in artifacts:
            client.download_artifacts(run, name, str(target))
    if "result.json" not in artifacts:
        log.warning("%s: its run in MLflow has no result.json; the cell is shown as missing", target.name)
