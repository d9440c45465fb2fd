"""One self-contained HTML page of a study: the finding, a section for each question, and every cell.

python -m analysis report --results results --study small

The file contains its figures, style and script. So the page needs no other file and fetches nothing. The same results
give the same page.
"""

from __future__ import annotations

import argparse
import base64
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pruning.core.storage import write_text

from ..data.archive import NothingToRead, folder
from ..data.load import Only, choose, of_windows
from ..data.study import AskedStudy
from ..figures import (
    fig1_masks,
    fig2_ranks,
    fig3_variance,
    fig4_overlap,
    fig5_variance_shares,
    fig6_crossed,
    fig7_cost,
    fig8_stability,
    fig10_healing,
)
from ..figures.cli import arguments, run
from ..stats import mask_overlap
from . import cells, finding, page_tables, study_data, summary
from .cells import Table
from .study_data import StudyData
from .summary import Part

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
    varied, shared = cells.settings(m)
    log.info("report   drawing %d figures", sum(entry.shown(m) for entry in FIGURES))
    drawn = list(drawn_figures(m))
    log.info("report   writing the page")
    return {
        "study": m.study or "all cells",
        "title": m.title,
        "status": {name: int(n) for name, n in m.frame["status"].value_counts().items()},
        "damages": m.damages,
        "finding": finding.finding(m),
        "sections": sections(list(parts.values()), drawn, list(page_tables.tables(m))),
        "after": [parts[heading] for heading in AFTER],
        "varied": varied,
        "shared": shared,
        "environments": cells.environments(m),
        "cells": page_tables.cells(m),
        "left_out": study_data.left_out(m.frame),
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


# The sections of the page: sentences, the figures that show the same numbers, and their tables.

LEAD = 3  # sentences that are always shown; if there are more, they can be opened

# For each section: its id, the heading of its part of the summary, its figures and its tables. The tables of several
# models share a name; a hyphen and a number follow it.
SECTIONS: Sequence[tuple[str, str, Sequence[str], Sequence[str]]] = (
    ("variance", "Calibration against search", ("fig5_variance_shares",), ("shares", "across")),
    (
        "costs",
        "What pruning for one objective costs in other outcomes",
        ("fig6_crossed", "fig10_healing"),
        ("crossed", "perplexity", "accuracy"),
    ),
    ("relative", summary.HEADING, (), ("objectives", "searches", "states")),
    ("searches", "Comparison of searches", ("fig7_cost", "fig3_variance"), ("search",)),
    (
        "masks",
        "How far masks and rankings agree",
        ("fig1_masks", "fig4_overlap", "fig2_ranks"),
        ("overlap", "overlap_by_objective", "agreement"),
    ),
    ("certainty", "How certain a mask is", ("fig8_stability",), ("sizes", "stability")),
    ("routing", summary.ROUTING_HEADING, (), ("routing",)),  # only in a study of tasks
    ("paper", "The paper's statements", (), ()),
)
AFTER = ("What was run", "What could not be computed, and why")  # parts that follow the list of cells


@dataclass(frozen=True)
class Section:
    """One section. `lead` are the first sentences, `more` the others."""

    anchor: str
    heading: str
    lead: Sequence[str]
    more: Sequence[str]
    figures: Sequence[Drawn]
    tables: Sequence[Table]


def sections(parts: Sequence[Part], figures: Sequence[Drawn], tables: Sequence[Table]) -> list[Section]:
    """All sections, in the order of the page."""
    said = {part.heading: part.sentences for part in parts}
    drawn = {figure.entry.name: figure for figure in figures}
    named: dict[str, list[Table]] = {}
    for table in tables:
        named.setdefault(table.name.partition("-")[0], []).append(table)
    return [_section(said, drawn, named, row) for row in SECTIONS if row[1] in said]


def _section(
    said: Mapping[str, Sequence[str]],
    drawn: Mapping[str, Drawn],
    named: Mapping[str, Sequence[Table]],
    row: tuple[str, str, Sequence[str], Sequence[str]],
) -> Section:
    anchor, heading, figures, tables = row
    lead = LEAD if figures else len(said[heading])
    return Section(
        anchor,
        heading,
        said[heading][:lead],
        said[heading][lead:],
        [drawn[name] for name in figures if name in drawn],
        [table for name in tables for table in named.get(name, ())],
    )


# The figures of `make figures`, embedded in the report as SVG. If drawing fails, the page says why.


@dataclass(frozen=True)
class FigureEntry:
    """A figure: its name, heading, caption, and the function that draws it."""

    name: str
    heading: str
    caption: str
    build: Callable[[StudyData], Figure]
    shown: Callable[[StudyData], bool] = lambda _: True  # whether the study asks this question at all


@dataclass(frozen=True)
class Drawn:
    """A figure as a `data:` address with its width in CSS pixels, or the reason why it was not drawn."""

    entry: FigureEntry
    address: str = ""
    width: int = 0
    reason: str = ""


def _ranks(m: StudyData) -> Figure:
    both = choose(m.frame, "ppl"), choose(m.frame, "acc")
    return fig2_ranks.draw(fig2_ranks.ranks(m.frame, *both), m.title, (both[0].label, both[1].label))


def _spread(m: StudyData) -> Figure:
    metrics = {"perplexity": choose(m.frame, "ppl"), "accuracy": choose(m.frame, "acc")}
    return fig3_variance.draw(m.frame, fig3_variance.spread(m.frame, metrics), m.title, metrics)


def _crossed(m: StudyData) -> Figure:
    choose(m.frame, "ppl")
    return fig6_crossed.draw(m.frame, *m.crossed, m.title)


def _cost(m: StudyData) -> Figure:
    curves, ends = fig7_cost.measure(m.frame, m.traces, m.lines)
    return fig7_cost.draw(curves, ends, m.title, "scores")


def _healing(m: StudyData) -> Figure:
    metric = of_windows(m.frame)
    return fig10_healing.draw(fig10_healing.healed(m.results, m.frame, metric), m.title, metric)


FIGURES = (
    FigureEntry(
        "fig1_masks",
        "Which blocks each search removed",
        "Each row is a search and each column a block. Each thin line is one calibration draw; if there are very "
        "many, the shade is the share of draws that remove the block. Beside each row are held-out perplexity and "
        "accuracy.",
        lambda m: fig1_masks.draw(m.frame, m.title),
    ),
    FigureEntry(
        "fig5_variance_shares",
        "How much is calibration, how much is search",
        "Shares of the variance of four outcomes, with intervals, within one model and one number of removed blocks.",
        lambda m: fig5_variance_shares.draw(*m.shares, m.title),
    ),
    FigureEntry(
        "fig6_crossed",
        "What pruning for one objective costs in other outcomes, and regret",
        "Top: mean outcomes by objective (perplexities: geometric means), darker if worse than the best by more "
        "standard errors of the difference. Bottom: how far each search ends above the best known mask, in standard "
        "errors of the difference between both masks on the same calibration samples.",
        _crossed,
    ),
    FigureEntry(
        "fig2_ranks",
        "Perplexity rank against accuracy rank",
        "Each point is a search; rank 1 is best. On the diagonal, both outcomes give a search the same rank. "
        "Searches that tie in both stand in a grey band.",
        _ranks,
    ),
    FigureEntry(
        "fig3_variance",
        "How much the searches differ",
        "Each point is the mean of a search over calibration draws, with its 95 percent interval; perplexities are "
        "averaged geometrically. Above each group: the standard deviation over searches.",
        _spread,
    ),
    FigureEntry(
        "fig4_overlap",
        "Which searches and objectives remove the same blocks",
        "Chance-corrected overlap of masks found on the same samples: 0 is chance, 1 is equality. The diagonal "
        "compares draws of one search. Bars are 95 percent intervals over calibration draws.",
        lambda m: fig4_overlap.draw(
            fig4_overlap.heat(m.frame), m.overlaps, m.title, mask_overlap.note(m.cells)
        ),
    ),
    FigureEntry(
        "fig7_cost",
        "Quality against cost",
        "Calibration loss above the best known mask against the number of masks scored, with 95 percent intervals "
        "over calibration draws. Rings mark the Pareto front.",
        _cost,
    ),
    FigureEntry(
        "fig8_stability",
        "Would other samples have chosen another mask?",
        "Left: bootstrap samples that choose another mask. Right: agreement of two disjoint subsets of n samples. "
        "Bars are 95 percent intervals over calibration draws.",
        lambda m: fig8_stability.draw(m.frame, *m.stability, m.title),
    ),
    FigureEntry(
        "fig10_healing",
        "Do masks still differ after repair and healing?",
        "Left: held-out loss of each mask above the dense model's, pruned and after each budget of healing; crosses "
        "are repaired. Middle: rank correlation with the pruned masks. Right: share of the lost loss that each mask "
        "regains.",
        _healing,
        lambda m: any({"heal", "repair"} & {*record} for record in m.records.values()),
    ),
)


def drawn_figures(study: StudyData) -> Iterator[Drawn]:
    """Each figure, or the reason why it was not drawn. An error in one figure does not stop the others."""
    for entry in FIGURES:
        if not entry.shown(study):
            continue
        try:
            figure = entry.build(study)
            yield Drawn(entry, _svg(figure), round(figure.get_figwidth() * 96))
        except NothingToRead as nothing:
            yield Drawn(entry, reason=str(nothing))
        except Exception as error:
            log.warning("%s could not be drawn: %s: %s", entry.name, type(error).__name__, error)
            yield Drawn(entry, reason=f"drawing failed ({type(error).__name__}: {error})")


def _svg(figure: Figure) -> str:
    """The figure as a `data:` address. So the page needs no other file, and ids in two figures cannot clash."""
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "depth-pruning"}):  # so that equal results give equal bytes
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
