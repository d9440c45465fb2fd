"""The picture of the packages is what the code is now, and the page names every package and no file that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from docs.draw_wings import facts, recorded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_shows_the_packages_and_imports_of_today() -> None:
    assert recorded() == facts(), "the picture is out of date: run `make wings`"


def test_the_page_has_a_row_for_every_package() -> None:
    for package in sorted(path.parent.name for path in (ROOT / "pruning").glob("*/__init__.py")):
        assert f"`{package}/`" in PAGE, package


def test_every_file_that_a_page_names_exists() -> None:
    names = re.compile(
        r"`((?:pruning|analysis|conf|tests|docs|benchmarks)/[\w/.]+\.(?:py|yaml|md|csv|ipynb|xz))`"
    )
    shown_to_be_written = {"pruning/algo/deepest.py", "pruning/objective/disagreement.py"}
    shown_to_be_written |= {
        "analysis/figures/fig11_seconds.py",
        "conf/algo/deepest.yaml",
        "conf/objective/disagreement.yaml",
    }
    shown_to_be_written |= {"conf/model/tiny_llama.yaml", "conf/model/NAME.yaml", "conf/launcher/ours.yaml"}
    gone = [
        f"{page.name}: {name}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
        for name in names.findall(page.read_text(encoding="utf-8"))
        if name not in shown_to_be_written and not (ROOT / name).exists()
    ]
    assert gone == []
