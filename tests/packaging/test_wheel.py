"""What an installed package brings: two top-level names, the configuration, the analysis, and commands that run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, laid out as an installation does."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installation, and without this checkout, in an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("kind", "most"), [("wheel", 2_000_000), ("sdist", 4_000_000)])
def test_a_package_is_small_because_it_has_no_archives(kind: str, most: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (package,) = tmp_path.iterdir()
    assert package.stat().st_size < most
    if kind == "wheel":
        names = zipfile.ZipFile(package).namelist()
    else:
        with tarfile.open(package) as archive:
            names = archive.getnames()
    assert any(name.endswith("core/mask.py") for name in names)
    assert [name for name in names if name.endswith(".xz")] == []


def test_an_installation_takes_no_common_names(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"pruning", "hydra_plugins"}


def test_an_installation_has_options_pages_and_types(installed: Path) -> None:
    files = ("conf/config.yaml", "conf/algo/greedy.yaml", "analysis/report/templates/report.css", "py.typed")
    files += (
        "analysis/figures/style.mplstyle",
        "analysis/paper/table1_accuracy.csv",
        "data/commonsense.jsonl",
        "export/card.md.jinja",
        "study/outcome.txt.jinja",
    )
    assert [name for name in files if not (installed / "pruning" / name).is_file()] == []


def test_the_command_line_runs_from_an_installation(installed: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['depth-pruning', 'algo=greedi']; from pruning.study.launch import main; main()"
    ended = run(installed, tmp_path, "-c", code)
    assert ended.returncode == 2
    assert "Did you mean greedy" in ended.stderr
    composed = run(
        installed,
        tmp_path,
        "-c",
        code.replace("algo=greedi", "algo=beam").replace("'algo", "'--cfg', 'job', 'algo"),
    )
    assert "pruning.algo.beam.Beam" in composed.stdout, composed.stderr


@pytest.mark.parametrize("command", ["report", "fig1", "table3", "paper-check"])
def test_the_analysis_runs_from_an_installation(installed: Path, tmp_path: Path, command: str) -> None:
    words = [] if command == "paper-check" else ["--help"]
    ended = run(installed, tmp_path, "-m", "pruning.analysis", command, *words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


def test_importing_the_package_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pruning; dir(pruning);"
        "print({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'transformers', 'hydra', 'pandas'})"
    )
    assert run(installed, tmp_path, "-c", code).stdout == "set()\n"
