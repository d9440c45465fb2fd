"""The copy of the code that jobs run; `tests/distributed` runs jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pruning.core.records import commit
from pruning.launcher import job
from pruning.launcher.job import job_environment


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
