"""Records of submissions: written before the scheduler is asked, read by every later command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.core.errors import DamagedError
from pruning.core.storage import read_json, write_json
from pruning.launcher.submission import Submission, latest, submissions
from pruning.models.model import Resources
from tests.helpers.launchers import submission, task


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = task("a", resources=Resources(nodes=2, ranks=4, memory_gb=1.5))
    written = submission(tmp_path, asked, task("b"), a="7_0", b="7_1")
    (read,) = submissions(tmp_path)
    assert read == written
    assert read.task("a") == asked
    assert read.task("a").resources.gpus == 4
    assert read.jobs == {"a": "7_0", "b": "7_1"}
    assert read.where == "/somewhere"


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = submission(tmp_path, task("a")).folder / "submission.json"
    record = read_json(path)
    for written in record["tasks"]:
        del written["files"], written["heal_files"]
    write_json(path, record)
    assert latest(tmp_path)["a"].task("a") == task("a")


def test_a_record_is_on_disk_before_any_job_has_a_name(tmp_path: Path) -> None:
    begun = Submission.begin(tmp_path, {"class": "Slurm"}, [task("a")], tmp_path / "c0de", ".")
    (read,) = submissions(tmp_path)
    assert read.name == begun.name
    assert (read.jobs, read.complete) == ({}, False)


def test_the_last_submission_of_a_cell_counts(tmp_path: Path) -> None:
    for number in range(20):  # many within one second
        submission(tmp_path, task("a"), task(f"b{number}"), a=f"{number}_0")
    records = latest(tmp_path)
    assert records["a"].jobs["a"] == "19_0"
    assert len(records) == 21


def test_a_log_is_found_for_both_kinds_of_jobs(tmp_path: Path) -> None:
    record = submission(
        tmp_path, task("a"), task("b"), a="7_1", b="process-a-host-with-dashes-4711-1700000000"
    )
    assert record.log("a") == record.folder / "7_1_0_log.out"
    (record.folder / "7_1_0_log.err").write_text("a trace")
    assert record.log("a") == record.folder / "7_1_0_log.err"
    assert record.log("b") == record.folder / "4711_0_log.out"
    assert record.log("c") is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = submission(tmp_path, task("a")).folder / "submission.json"
    path.write_text(path.read_text().replace('"group"', '"grup"'))
    with pytest.raises(DamagedError, match=r"submission\.json is damaged \(it is not a record of jobs\)"):
        list(submissions(tmp_path))
