"""The copy of the code that jobs run; `tests/distributed` runs jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pruning.core.records import commit
from pruning.launcher import job
from pruning.launcher.job import job_environment


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project instead of this one."""
    for name in ("pruning/__init__.py", "pruning/one.py", "conf/a.yaml"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(f"# {name}\n")
    monkeypatch.setattr(job, "ROOT", tmp_path / "project")
    return tmp_path / "project"


def test_the_same_code_is_copied_once_and_a_change_makes_another_copy(root: Path, tmp_path: Path) -> None:
    first = job.snapshot(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert job.snapshot(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert [path.name for path in (tmp_path / "code").iterdir()] == [first.name], "no incomplete copy is left"
    (root / "pruning" / "one.py").write_text("raise SystemExit\n")
    second = job.snapshot(tmp_path)
    assert (first / "pruning" / "one.py").read_text() == "# pruning/one.py\n"
    (root / "pruning" / "one.py").rename(root / "pruning" / "two.py")
    assert len({first, second, job.snapshot(tmp_path)}) == 3


def test_a_job_imports_the_copy_though_the_project_is_installed(tmp_path: Path) -> None:
    folder = job.snapshot(tmp_path)
    assert (folder / job.COMMIT).read_text() == (commit() or "")
    lines = [*job_environment(folder), f"{sys.executable} -m pruning.launcher.where"]
    (folder / "pruning" / "launcher" / "where.py").write_text("import pruning\nprint(pruning.__file__)\n")
    done = subprocess.run(
        ["sh", "-ec", "\n".join(lines)], cwd=job.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(folder / "pruning" / "__init__.py")
