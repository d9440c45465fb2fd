"""One self-contained HTML page of a study: the finding, a section for each question, and every cell.

python -m analysis.report --results results --study small

The file contains its figures, style and script. So the page needs no other file and fetches nothing. The same results
give the same page.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pruning.core.atomic_files import write_text

from ..data.cell_filter import Only
from ..data.errors import NothingToRead
from ..data.mlflow_store import folder
from ..data.study import AskedStudy
from ..figures.cli import arguments, run
from . import cells, configuration, figures, finding, sections, shown_cells, summary, tables
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
    _compute(m)
    parts = {part.heading: part for part in summary.parts(m)}
    varied, shared = configuration.settings(m)
    log.info("report   drawing %d figures", sum(entry.shown(m) for entry in figures.FIGURES))
    drawn = list(figures.drawn(m))
    log.info("report   writing the page")
    return {
        "study": m.study or "all cells",
        "title": m.title,
        "status": {name: int(n) for name, n in m.frame["status"].value_counts().items()},
        "damages": m.damages,
        "finding": finding.finding(m),
        "sections": sections.sections(list(parts.values()), drawn, list(tables.tables(m))),
        "after": [parts[heading] for heading in sections.AFTER],
        "varied": varied,
        "shared": shared,
        "environments": configuration.environments(m),
        "cells": tables.cells(m),
        "left_out": shown_cells.left_out(m.frame),
        "groups": list(cells.groups(m)),
        "style": _inlined("report.css"),
        "script": _inlined("report.js"),
    }


# What takes seconds. Each step is computed once, when it is first read; this order is that of the progress lines.
STEPS = {
    "traces": "reading the journals of the searches",
    "shares": "shares of variance, with bootstrap and permutation tests",
    "across": "models and ratios, with permutation tests",
    "agreements": "agreement of rankings, with permutation tests",
    "gains": "one-shot against the best known mask",
    "overlaps": "overlap of masks",
    "stability": "stability under resampling",
}


def _compute(m: StudyData) -> None:
    """Compute the statistics, with a line of progress for each."""
    log.info("report   %d cells", len(m.frame))
    for number, (name, words) in enumerate(STEPS.items(), start=1):
        log.info("report   %d of %d: %s", number, len(STEPS), words)
        with suppress(NothingToRead):  # then the page says what is missing
            getattr(m, name)


def _inlined(name: str) -> Markup:
    """A file from `templates`, inserted into the page without escaping."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def write(results: Path, study: str | None, out: Path, only: Only = MappingProxyType({})) -> Path:
    """Write the page of a study to a folder, and return its path."""
    return _write_page(StudyData(results, study, only), out)


def _write_page(data: StudyData, out: Path) -> Path:
    path = out / "report.html"
    write_text(path, page(data))
    return path


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    return [_write_page(StudyData(folder(given.results), given.study, given.only, study), given.out)]


def main() -> None:
    """Write the page for a results folder."""
    run("report", arguments("One self-contained HTML page of a study."), _write)
