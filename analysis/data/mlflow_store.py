"""An MLflow store or an archive as a results folder, so that figures can be drawn where no folder is at hand.

python -m analysis.fig1_masks --results sqlite:////data/results/mlflow.db --study demo
python -m analysis.report --results http://tracking.example.org:5000 --study demo
python -m analysis.report --results small.tar.xz --study small

The tracker records each cell's files as artifacts (`pruning.track`), so nothing is parsed twice: they are laid out
as they were, and read as they always are. Cells that a study asks for and that have no run are missing there, as they
are in a folder. The samples themselves are not in MLflow.
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
from pruning.tracking.client import connect

from . import archive
from .errors import NothingToRead

log = logging.getLogger(__name__)

FILES = ("result.json", "mask.json", "trace.jsonl", "launch.log")
EXPERIMENT = "depth-pruning"

_URI = re.compile(r"[a-z][a-z0-9+]+://")  # two letters at least: a drive of Windows is no scheme
_folders: list[tempfile.TemporaryDirectory[str]] = []  # kept until the program ends


def is_store(results: Path | str) -> bool:
    """Whether this names a tracking server, a database or an archive, and not a folder."""
    return is_archive(results) or _URI.match(str(results)) is not None


def is_archive(results: Path | str) -> bool:
    """Whether this names a file that `analysis.archive` has packed."""
    return str(results).endswith(archive.SUFFIX)


@cache
def folder(results: Path | str) -> Path:
    """The results folder itself, or a temporary one with what an MLflow store or an archive holds.

    Raises NothingToRead where there is no such file.
    """
    if not is_store(results):
        return Path(results)
    _folders.append(tempfile.TemporaryDirectory(prefix="depth-pruning-"))
    place = Path(_folders[-1].name)
    if is_archive(results):
        _lay_out(Path(results), place)
    else:
        copy(str(results), place)
    return place


def _lay_out(packed: Path, place: Path) -> None:
    if not packed.exists():
        raise NothingToRead(f"there is no archive {packed}.")
    archive.unpack(packed, place)


def copy(uri: str, place: Path, experiment: str = EXPERIMENT) -> None:
    """Lay out the runs of an experiment as a results folder.

    Raises NothingToRead where the store or the experiment cannot be had.
    """
    try:
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        studies = {} if found is None else study_tags.read_studies(found.tags)
        for run in () if found is None else _runs(client, found.experiment_id):
            cell = run.data.tags["cell"]
            for study in filter(None, run.data.tags.get("sweep", "").split(", ")):
                studies.setdefault(study, []).append(cell)
            _download(client, run.info.run_id, place / cell)
    except Exception as error:  # whatever a client raises: network, database, schema
        raise NothingToRead(f"cannot read the MLflow store {uri}: {type(error).__name__}: {error}") from error
    if not studies:
        raise NothingToRead(f"no run of an experiment '{experiment}' in the MLflow store {uri}.")
    for study, cells in studies.items():
        study_list.write_study(place, study, cells)


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    """Each run that records a cell, oldest first."""
    token: Any = ""
    while token is not None:
        order = ["attributes.start_time ASC"]
        page = client.search_runs([experiment], "tags.cell != ''", order_by=order, page_token=token or None)
        yield from page
        token = page.token or None


def _download(client: Any, run: str, place: Path) -> None:
    """The files of a cell; of those that cannot be had, the cell stands in the frame as missing."""
    place.mkdir(parents=True, exist_ok=True)
    held = {artifact.path for artifact in client.list_artifacts(run)}
    for name in FILES:
        if name in held:
            client.download_artifacts(run, name, str(place))
    if "result.json" not in held:
        log.warning("%s: its run in MLflow holds no result.json; shown as missing", place.name)
