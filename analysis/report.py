"""One self-contained HTML page of a study: summary, configuration, figures, tables, and every cell.

python -m analysis.report --results results --study small

Nothing is fetched when the page is opened, and nothing beside it is needed: figures, style and the few lines of
script are in the file. The same results give the same page.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import report_cells, report_config, report_figures, report_summary, report_tables
from analysis.command import arguments
from analysis.only import Only
from analysis.report_material import Material

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"


def page(material: Material) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**_context(material))


def _context(m: Material) -> dict[str, Any]:
    varied, shared = report_config.settings(m)
    return {
        "study": m.study or "all cells",
        "title": m.title,
        "status": {name: int(n) for name, n in m.frame["status"].value_counts().items()},
        "summary": report_summary.parts(m),
        "varied": varied,
        "shared": shared,
        "environments": report_config.environments(m),
        "figures": list(report_figures.drawn(m)),
        "cells": report_tables.cells(m),
        "tables": list(report_tables.tables(m)),
        "groups": list(report_cells.groups(m)),
        "style": _inlined("report.css"),
        "script": _inlined("report.js"),
    }


def _inlined(name: str) -> Markup:
    """A file of our own, put into the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def write(results: Path, study: str | None, out: Path, only: Only = MappingProxyType({})) -> Path:
    """Write the page of a study to a folder, and return its path."""
    text = page(Material(results, study, only))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def main() -> None:
    """Write the page for a results folder."""
    given = arguments("One self-contained HTML page of a study.")
    log.info("report   %s", write(given.results, given.study, given.out, given.only).resolve())


if __name__ == "__main__":
    main()
