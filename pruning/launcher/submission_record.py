"""`submission.json` and `jobs.json`: the meaning of each key, the only reader and the only writer.

`docs/results_folder.md` prints the sentence beside each key, and a test checks that the two agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from pruning.core import atomic_files
from pruning.core.errors import DamagedError
from pruning.core.recorded import check_literal, recorded

NAME, JOBS = "submission.json", "jobs.json"


class TaskRecord(TypedDict):
    """One cell of a submission."""

    key: Annotated[str, "The cell's key."]
    config: Annotated[dict[str, Any], "Its configuration, with options and classes by name."]
    choices: Annotated[dict[str, str], "The options of `objective`, `calibration` and `algo`."]
    resources: Annotated[dict[str, Any], "The resources that its job requests: `model.resources`."]
    evaluations: Annotated[int, "The most losses that its search will ask for."]
    group: Annotated[str, "A digest; cells with equal digests share scores."]
    files: NotRequired[
        Annotated[dict[str, str | None], "Digest of each local file that its evaluation reads."]
    ]
    heal_files: NotRequired[
        Annotated[dict[str, str | None], "Digest of the local file that its healing reads."]
    ]


class SubmissionRecord(TypedDict):
    """What is submitted; this file is written before the scheduler is asked to start anything."""

    launcher: Annotated[dict[str, Any], "The launcher's class and settings."]
    submitted: Annotated[str, "When, in UTC."]
    code: Annotated[str, "The folder in `code/` with the copy of the code that the jobs run."]
    where: Annotated[str, "The working directory of the command; relative paths start there."]
    driver: Annotated[str, "The process that submits."]
    tasks: Annotated[list[TaskRecord], "The cells."]


class JobsRecord(TypedDict):
    """What is known about the jobs of a submission; the file is written again after each new job."""

    jobs: Annotated[dict[str, str], "The name of each cell's job in the scheduler, by the cell's key."]
    complete: Annotated[bool, "Whether no further job will be added."]
    devices: Annotated[dict[str, list[str]], "The GPUs of each local process, by the process's name."]


def read_submission(path: Path) -> tuple[SubmissionRecord, JobsRecord]:
    """A submission and its jobs; older forms are converted.

    Raises DamagedError if the file is not a submission, InputError if a configuration in it is not literal.
    """
    data = atomic_files.read_json(path)
    if not isinstance(data, dict) or not SubmissionRecord.__required_keys__ <= data.keys():
        raise DamagedError(f"{path} is damaged (it is not a record of jobs): move it away.")
    check_literal({"tasks": data["tasks"]}, f"{path} is not to be trusted: ")
    tasks = data["tasks"] if isinstance(data["tasks"], list) else []
    for task in tasks:
        paths = task.get("config", {}).get("paths") if isinstance(task, dict) else None
        if paths is not None and not (isinstance(paths, dict) and isinstance(paths.get("results"), str)):
            raise DamagedError(f"{path} is damaged (paths={paths!r} in a task): move it away.")
    jobs_path = path.with_name(JOBS)
    empty: JobsRecord = {"jobs": {}, "complete": False, "devices": {}}
    jobs = atomic_files.read_json(jobs_path) if jobs_path.exists() else {}
    return cast(SubmissionRecord, data | {"launcher": recorded(data["launcher"])}), cast(
        JobsRecord, empty | jobs
    )


def write_submission(folder: Path, record: SubmissionRecord) -> None:
    """Write `submission.json` atomically."""
    atomic_files.write_json(folder / NAME, record)


def write_jobs(folder: Path, record: JobsRecord) -> None:
    """Write `jobs.json` atomically."""
    atomic_files.write_json(folder / JOBS, record)
