"""The files that docs/extending.md shows, written into a copy of the project, pass every test of their group."""

from __future__ import annotations

import os
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
    r"`(?P<path>(?:pruning|conf)/(?:algo|objective)/\w+\.\w+)`(?:(?!```).)*```(?:python|yaml)\n(?P<text>.*?)```",
    re.DOTALL,
)
# The section of the page for a group: its heading and the next one.
SECTIONS = {
    "algo": ("**An algorithm**", "**An objective**"),
    "objective": ("**An objective**", "**A calibration**"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this project, without results and archives."""
    ignored = shutil.ignore_patterns("__pycache__", "*.tar.xz", "images")
    for folder in ("pruning", "conf", "hydra_plugins", "analysis", "benchmarks", "docs", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
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
    (described,) = re.findall(r"```markdown\n(.*?)```", section, re.DOTALL)
    if group == "algo":
        row, paragraph, settings = described.strip().split("\n\n")
        add(project / "docs" / "algorithms.md", f"{paragraph}\n\n{row}\n")
        add(project / "docs" / "settings.md", settings)
    else:
        add(project / "docs" / "objectives.md", f"{described}\n## End\n")
    return name


def add(page: Path, text: str) -> None:
    """Add a text to the end of a page."""
    page.write_text(f"{page.read_text()}\n{text}\n")


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, and never import the original."""
    environment = os.environ | {"PYTHONPATH": str(project)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def every_test(project: Path, name: str, group: str = "algo") -> subprocess.CompletedProcess[str]:
    """Run all tests that concern one option: those of its group, of every option, and of the pages on options."""
    pages = "every_setting_is_named", "states_their_bounds", f"described_with_its_source and {group}"
    chosen = " or ".join((name, *(f"({words})" for words in pages)))
    places = f"tests/{group}", "tests/hostile/test_hostile_settings.py", "tests/docs/test_described_pages.py"
    return run(project, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-k", chosen, *places)


def compose(project: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from hydra import compose, initialize_config_dir; from hydra.utils import instantiate;"
        "from pruning.config.groups import CONF; from pruning.config.app import register; register();"
        "initialize_config_dir(str(CONF), version_base='1.3').__enter__();"
        "print(instantiate(compose('config', sys.argv[1:]).algo))"
    )
    return run(project, "-c", code, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "least"), [("algo", 75), ("objective", 10)])
def test_the_example_of_the_page_passes_every_test_of_its_group(
    project: Path, group: str, least: int
) -> None:
    ran = every_test(project, follow(PAGE, project, group), group)
    assert ran.returncode == 0, ran.stdout
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed
    assert int(passed[1]) >= least, "the tests did not run on the new option"


def test_a_copy_of_an_objective_must_have_another_name(project: Path) -> None:
    """A class name identifies scores, so a changed copy would use the scores of the original."""
    folder = project / "pruning" / "objective"
    shutil.copy(folder / "taylor.py", folder / "mine.py")
    ran = compose(project, "objective=margin")
    assert re.search(r"objective\.mine .*objective\.taylor .* Taylor\b", ran.stderr)
