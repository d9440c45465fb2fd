"""The copy of the code that jobs run, and the records of submissions and their order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock, Timeout

from pruning.core.errors import DamagedError
from pruning.core.records import commit
from pruning.launcher import job
from pruning.launcher.job import job_environment
from pruning.launcher.submission import Submission, latest, submission_lock, submissions, tasks
from pruning.models.handle import Resources
from tests.helpers.launchers import submission, task


def test_each_command_has_a_copy_of_its_own_that_later_changes_do_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pruning/one.py", "pruning/__pycache__/one.pyc", "pruning/analysis/page.py", "conf/a.yaml"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text("# first\n")
    monkeypatch.setattr(job, "ROOT", tmp_path / "project")
    monkeypatch.setattr(job, "ANALYSIS", tmp_path / "project" / "pruning" / "analysis")
    first = job.snapshot(tmp_path)
    (tmp_path / "project" / "pruning" / "one.py").write_text("# second\n")
    second = job.snapshot(tmp_path)
    copied = [folder / "pruning" / "one.py" for folder in (first, second)]
    assert [path.read_text() for path in copied] == ["# first\n", "# second\n"]
    files = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert files == {"COMMIT", "conf/a.yaml", "pruning/one.py"}


def test_a_job_imports_the_copy_though_the_project_is_installed(tmp_path: Path) -> None:
    folder = job.snapshot(tmp_path)
    assert (folder / job.COMMIT).read_text() == (commit() or "")
    lines = [*job_environment(folder), f"{sys.executable} -m pruning.launcher.where"]
    (folder / "pruning" / "launcher" / "where.py").write_text("import pruning\nprint(pruning.__file__)\n")
    done = subprocess.run(
        ["sh", "-ec", "\n".join(lines)], cwd=job.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(folder / "pruning" / "__init__.py")


def test_a_record_is_on_disk_before_any_job_has_a_name_and_then_has_all_jobs(tmp_path: Path) -> None:
    asked = task("a", resources=Resources(nodes=2, ranks=4, memory_gb=1.5))
    begun = Submission.begin(tmp_path, [asked, task("b")], tmp_path / "c0de", "/somewhere")
    (read,) = submissions(tmp_path)
    assert (read.name, read.jobs, read.complete) == (begun.name, {}, False)
    begun.jobs, begun.complete = {"a": "7_0", "b": "7_1"}, True
    begun.save()
    (read,) = submissions(tmp_path)
    assert read == begun
    assert read.tasks["a"] == asked


def test_the_last_submission_of_a_cell_counts(tmp_path: Path) -> None:
    for number in range(20):  # many within one second
        submission(tmp_path, task("a"), task(f"b{number}"), a=f"{number}_0")
    records = latest(tmp_path)
    assert records["a"].jobs["a"] == "19_0"
    assert len(records) == 21


@pytest.mark.parametrize("key", ["evaluations", "nodes", "tasks"])
def test_a_damaged_record_is_named(key: str, tmp_path: Path) -> None:
    path = submission(tmp_path, task("a")).folder / "submission.json"
    path.write_text(path.read_text().replace(f'"{key}"', f'"{key}s"'))
    with pytest.raises(DamagedError, match=r"submission\.json"):
        list(submissions(tmp_path))


def test_the_shortest_search_is_submitted_first() -> None:
    lengths = {"long": 90, "short": 10, "middle": 50}
    cells = {
        key: SimpleNamespace(key=key, config={}, model=SimpleNamespace(resources=Resources()))
        for key in lengths
    }
    prepared: Any = [SimpleNamespace(cell=cells[key], evaluations=most) for key, most in lengths.items()]
    assert [one.key for one in tasks(prepared)] == ["short", "middle", "long"]


def test_two_commands_do_not_submit_at_once(tmp_path: Path) -> None:
    with submission_lock(tmp_path), pytest.raises(Timeout):
        FileLock(tmp_path / "jobs" / ".lock").acquire(timeout=0)
