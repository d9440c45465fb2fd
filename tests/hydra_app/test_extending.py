"""The files that docs/extending.md shows, written into a copy of the project, pass the contract tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
# A file of the page: its path in backticks, and the next fenced block.
FILE = re.compile(
    r"`(?P<path>\w+/(?:algo|objective)/\w+\.\w+)`(?:(?!```).)*```\w+\n(?P<text>.*?)```", re.DOTALL
)


# The section of the page for a group: its heading and the next one.
SECTIONS = {
    "algo": ("**An algorithm**", "**An objective**"),
    "objective": ("**An objective**", "**A calibration**"),
}
COPIED = (
    *("__init__.py", "algo/__init__.py", "algo/test_contract.py", "algo/golden/masks.json"),
    *("objective/__init__.py", "objective/test_contract.py"),
    *("helpers/__init__.py", "helpers/objectives.py", "helpers/architectures.py", "helpers/rows.py"),
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files that searches and objectives need, without docs, results or other tests."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("pruning", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in COPIED:
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def follow(page: str, project: Path, group: str = "algo") -> str:
    """Write the two files that the page shows for a group; returns the name of the new option."""
    start, end = SECTIONS[group]
    section = page.partition(start)[2].partition(end)[0]
    files = {match["path"]: match["text"] for match in FILE.finditer(section)}
    (name,) = {Path(path).stem for path in files}
    assert set(files) == {f"pruning/{group}/{name}.py", f"conf/{group}/{name}.yaml"}
    for path, text in files.items():
        assert not (project / path).exists(), "the page must show a new file"
        (project / path).write_text(text)
    return name


def contract(project: Path, name: str, group: str = "algo") -> subprocess.CompletedProcess[str]:
    """Run the contract tests of one option in the copy."""
    chosen = [name, f"tests/{group}/test_contract.py"]
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-k", *chosen]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def compose(project: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from hydra import compose, initialize_config_dir; from hydra.utils import instantiate;"
        "from pruning.config.groups import CONF; from pruning.config.app import register; register();"
        "initialize_config_dir(str(CONF), version_base='1.3').__enter__();"
        "print(instantiate(compose('config', sys.argv[1:]).algo))"
    )
    command = [sys.executable, "-c", code, *overrides]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_the_algorithm_of_the_page_passes_the_contract(project: Path) -> None:
    name = follow(PAGE, project)
    ran = contract(project, name)
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed
    assert int(passed[1]) > 40, "the contract tests did not run on the new option"


@pytest.mark.slow
def test_the_objective_of_the_page_passes_the_contract(project: Path) -> None:
    name = follow(PAGE, project, "objective")
    ran = contract(project, name, "objective")
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed
    assert int(passed[1]) > 5, "the contract tests did not run on the new option"


@pytest.mark.slow
def test_a_mistake_in_the_objective_would_be_noticed(project: Path) -> None:
    right = "(pruned.logits.argmax(-1) != dense.logits.argmax(-1)).double()"
    wrong = "pruned.logits.argmax(-1) != dense.logits.argmax()"
    assert PAGE.count(right) == 1
    name = follow(PAGE.replace(right, wrong), project, "objective")
    assert contract(project, name, "objective").returncode == 1


def test_its_settings_can_be_given_and_a_typo_is_refused(project: Path) -> None:
    follow(PAGE, project)
    assert (
        "Deepest(keep=4, max_evaluations=7)"
        in compose(project, "algo=deepest", "algo.keep=4", "algo.max_evaluations=7").stdout
    )
    assert "algo.keep=-1 is negative" in compose(project, "algo=deepest", "algo.keep=-1").stderr
    assert "kept" in compose(project, "algo=deepest", "algo.kept=4").stderr


def test_a_copy_of_an_objective_must_have_another_name(project: Path) -> None:
    """A class name identifies scores, so a changed copy would use the scores of the original."""
    folder = project / "pruning" / "objective"
    shutil.copy(folder / "margin.py", folder / "mine.py")
    ran = compose(project, "objective=margin")
    assert "pruning.objective.margin and pruning.objective.mine both define a class Margin" in ran.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("stop - space.k : stop", "stop - space.k + 1 : stop"),  # one block too few
        ("yield Ask(masks, best=1)", "yield masks"),
    ],
)
@pytest.mark.slow
def test_a_mistake_on_the_page_would_be_noticed(project: Path, right: str, wrong: str) -> None:
    assert PAGE.count(right) == 1
    assert contract(project, follow(PAGE.replace(right, wrong), project)).returncode == 1
