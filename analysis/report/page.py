"""One self-contained HTML page of a study: summary, configuration, figures, tables, and every cell.

python -m analysis.report --results results --study small

The file contains its figures, style and script. So the page needs no other file and fetches nothing. The same results
give the same page.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..data.cell_filter import Only
from ..figures.cli import arguments
from . import cells, configuration, figures, summary, tables
from .study_data import StudyData

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"


def page(data: StudyData) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**_context(data))


def _context(m: StudyData) -> dict[str, Any]:
    varied, shared = configuration.settings(m)
    return {
        "study": m.study or "all cells",
        "title": m.title,
        "status": {name: int(n) for name, n in m.frame["status"].value_counts().items()},
        "summary": summary.parts(m),
        "varied": varied,
        "shared": shared,
        "environments": configuration.environments(m),
        "figures": list(figures.drawn(m)),
        "cells": tables.cells(m),
        "tables": list(tables.tables(m)),
        "groups": list(cells.groups(m)),
        "style": _inlined("report.css"),
        "script": _inlined("report.js"),
    }


def _inlined(name: str) -> Markup:
    """A file from `templates`, inserted into the page without escaping."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def write(results: Path, study: str | None, out: Path, only: Only = MappingProxyType({})) -> Path:
    """Write the page of a study to a folder, and return its path."""
    text = page(StudyData(results, study, only))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    """Write the page for a results folder."""
    given = arguments("One self-contained HTML page of a study.")
    log.info("report   %s", write(given.results, given.study, given.out, given.only).resolve())
