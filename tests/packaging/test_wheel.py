"""What an installed package brings: two top-level names, the configuration, the analysis, and commands that run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pruning.commands import SUBCOMMANDS

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


def test_packages_are_small_because_they_have_no_archives(installed: Path, tmp_path: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    assert wheel.stat().st_size < 2_000_000
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (source,) = tmp_path.iterdir()
    assert source.stat().st_size < 4_000_000
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pruning/core/mask.py", "conf/config.yaml", "analysis/paper/check.py", "launch.py", "LICENSE"}
    assert needed | {"hatch_build.py", "CHANGELOG.md", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.endswith(".xz")]


def test_an_installation_takes_no_common_names_and_has_a_command_options_pages_and_types(
    installed: Path,
) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"pruning", "hydra_plugins"}
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "depth-pruning = pruning.commands:main" in points.read_text()
    files = [
        *("conf/config.yaml", "conf/algo/greedy.yaml", "analysis/report/templates/report.css", "py.typed"),
        *(
            "analysis/figures/style.mplstyle",
            "analysis/paper/table1_accuracy.csv",
            "data/commonsense.jsonl",
            "tour.ipynb",
        ),
        *("export/card.md.jinja", "export/summary.txt.jinja", "study/outcome.txt.jinja"),
    ]
    assert [name for name in files if not (installed / "pruning" / name).is_file()] == []


@pytest.mark.parametrize("name", [*SUBCOMMANDS])
def test_help_names_nothing_that_an_installation_lacks(installed: Path, tmp_path: Path, name: str) -> None:
    ended = run(installed, tmp_path, "-m", "pruning.commands", name, "--help")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert re.findall(r"launch\.py|\bmake \w+|docs/|python -m|conf/", ended.stdout) == []


def test_settings_are_checked_and_composed(installed: Path, tmp_path: Path) -> None:
    ended = run(installed, tmp_path, "-m", "pruning.commands", "grid", "algo=greedi")
    assert ended.returncode == 2
    assert re.search(r"'greedi'.* greedy\b.*\?", ended.stderr), ended.stderr
    composed = run(installed, tmp_path, "-m", "pruning.commands", "grid", "--cfg", "job", "algo=beam")
    assert "pruning.algo.beam.Beam" in composed.stdout, composed.stderr
    assert run(installed, tmp_path, "-m", "pruning.commands", "check-paper").returncode == 0


@pytest.mark.slow
def test_a_grid_its_report_and_a_figure(installed: Path, tmp_path: Path, model_folder: Path) -> None:
    small = "model=local model.dtype=float32 eval.samples=2 eval.length=32 eval.items=6 calibration.samples=4"
    words = [*small.split(), "calibration.length=24", f"model.path={model_folder}", "k=1,2", "algo=one_shot"]
    for command in (["grid", "-m", *words], ["report"], ["figure", "fig1"], ["status"], ["archive", "pack"]):
        name = ["results", "default", "one.tar.xz"] if command[0] == "archive" else []
        ended = run(installed, tmp_path, "-m", "pruning.commands", *command, *name)
        assert ended.returncode == 0, ended.stderr
    made = ["mlflow.db", "figures/report.html", "figures/fig1_masks.png", "../one.tar.xz"]
    assert [name for name in made if not (tmp_path / "results" / name).is_file()] == []


def test_importing_the_package_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pruning; dir(pruning);"
        "print({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'transformers', 'hydra', 'pandas'})"
    )
    assert run(installed, tmp_path, "-c", code).stdout == "set()\n"
