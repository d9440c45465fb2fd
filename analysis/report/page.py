"""One self-contained HTML page of a study: the finding, a section for each question, and every cell.

depth-pruning report [OPTIONS]

    --results DIR           a results folder, or an archive (*.tar.xz); default: results
    --study NAME            use only the cells of this study; default: all cells
    --only COLUMN=VALUE,... use only cells with one of these values; may be repeated
    --out DIR               the folder to write to; default: RESULTS/figures, or figures for an archive

The file contains its figures, style and script. So the page needs no other file and fetches nothing. Equal results
give equal pages.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from pruning.core.storage import write_text

from ..data.archive import NothingToRead
from ..data.study import AskedStudy
from ..figures.cli import StudyFigure, figures, parsed, run, study_arguments
from ..figures.style import number
from ..stats.grid import noun
from . import cells, page_tables, study_data, summary
from .page_tables import ReportTable, changes
from .study_data import StudyData, say, tried
from .summary import Part, moved

log = logging.getLogger(__name__)


def main() -> None:
    """Write the page for a results folder."""
    given = parsed(study_arguments("One self-contained HTML page of a study."))
    run("report", given, lambda study: write(study, given.out))


def write(study: AskedStudy, out: Path) -> Path:
    """Write the page of a study to a folder, and return its path."""
    write_text(out / "report.html", page(StudyData(study)))
    return out / "report.html"


def page(m: StudyData) -> str:
    """The page as HTML."""
    log.info("report   %d cells", len(m.frame))
    drawn = list(drawn_figures(m))
    log.info("report   computing the sentences and tables")
    parts, lacking = summary.parts(m)
    lacking += [(figure.entry.heading.lower(), figure.reason) for figure in drawn if figure.reason]
    varied, shared = cells.settings(m)
    template = study_data.templates().get_template("report.html.j2")
    return template.render(
        study=m.asked.study or "all cells",
        title=m.asked.title,
        status=m.frame["status"].value_counts().to_dict(),
        damages=m.asked.damages,
        absent=m.asked.absent,
        finding=finding(m),
        sections=list(sections(parts, drawn, list(page_tables.tables(m)))),
        ran=parts["run"],
        refused=summary.refusals(m, lacking),
        varied=varied,
        shared=shared,
        cells=page_tables.cells(m),
        groups=list(cells.groups(m)),
        style=inlined("report.css"),
        script=inlined("report.js"),
    )


def inlined(name: str) -> Markup:
    """A file from `templates`, inserted into the page without escaping."""
    return Markup((study_data.TEMPLATES / name).read_text(encoding="utf-8"))


# The top of the page: how many blocks change, and the table of these changes.


@dataclass(frozen=True)
class Finding:
    """The top of the page. `table` shows what changes a mask; None if nothing can be compared."""

    headline: str
    detail: str
    table: ReportTable | None


def finding(m: StudyData) -> Finding:
    """The top of the page for a study."""
    finished = {"done": len(m.cells), "asked": len(m.frame)}
    headline, detail = tried(_moves, m) or say("finding", kind="finished", **finished)
    known = tried(lambda study: study.changes, m)
    return Finding(headline, detail, changes(m) if known else None)


def _moves(m: StudyData) -> list[str] | None:
    """How many blocks another objective, draw or search changes; with several strata, in percent of the mask size."""
    strata = list(moved(m))
    if not strata:
        return None
    alone, ends, chance = len(strata) == 1, dict[str, list[float]](), list[float]()
    for _, size, ranges, by_chance in strata:
        scale = 1 if alone else 100 / size
        chance.append(scale * by_chance)
        for factor, low, high in ranges:
            ends.setdefault(factor, []).extend([scale * low, scale * high])
    form, units = number if alone else "{:.0f}".format, noun(m.cells)
    return say(
        "finding",
        kind="moves",
        factors=[(factor, form(min(of)), form(max(of))) for factor, of in ends.items()],
        of=f"of {strata[0][1]:.3g} {units}" if alone else f"percent of the removed {units}",
        where="" if alone else f", in {len(strata)} combinations of model and size",
        chance=" to ".join(dict.fromkeys(map(form, (min(chance), max(chance))))),
        left_out=m.left_out,
    )


# The sections, and the figures in them.

JUDGED = ("masks", "variance")  # sections whose figures use only the cells that verdicts are about


def sections(
    parts: dict[str, Part], drawn: Sequence[ReportFigure], tables: Sequence[ReportTable]
) -> Iterator[dict[str, Any]]:
    """The sections, each with its sentences, figures that show the same numbers, and its tables."""
    for name, part in parts.items():
        if name != "run":  # the template places it elsewhere
            shown = [figure for figure in drawn if figure.entry.section == name and figure.address]
            # If each model has its own table, a hyphen and a number follow the table's name.
            own = [table for one in part.tables for table in tables if table.name.partition("-")[0] == one]
            yield {"anchor": name, "part": part, "figures": shown, "tables": own}


# The figures, embedded. If drawing fails, the page says why.


@dataclass(frozen=True)
class ReportFigure:
    """A figure as a `data:` address with its width in CSS pixels, or the reason why it was not drawn."""

    entry: StudyFigure
    address: str = ""
    width: int = 0
    reason: str = ""


def drawn_figures(m: StudyData) -> Iterator[ReportFigure]:
    """Each figure, or the reason why it was not drawn. An error in one figure does not stop the others."""
    for entry in figures().values():
        if not entry.caption or not entry.asked(m.asked):
            continue
        log.info("report   %s", entry.heading)
        try:
            figure = entry.of((m.judged if entry.section in JUDGED else m).asked).figure
            yield ReportFigure(entry, embedded(figure), round(figure.get_figwidth() * 96))
        except NothingToRead as nothing:
            yield ReportFigure(entry, reason=str(nothing))
        except Exception as error:
            log.warning("%s could not be drawn: %s: %s", entry.name, type(error).__name__, error)
            yield ReportFigure(entry, reason=f"drawing failed ({type(error).__name__}: {error})")


# To make the page smaller, text is not drawn as paths, and only characters that need it are escaped.
SVG: Any = {"svg.hashsalt": "depth-pruning", "svg.fonttype": "none"}  # so that equal results give equal bytes
SAFE = " ...,;:/?@&=+$!*'()<>|~_-"


def embedded(figure: Figure) -> str:
    """The figure as a `data:` address, so that the page needs no other file."""
    stream = io.BytesIO()
    with mpl.rc_context(SVG):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml," + quote(" ".join(stream.getvalue().decode().split()), safe=SAFE)
