"""The sections of the page: sentences, the figures that show the same numbers, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import perplexity_comparisons, routing
from .figures import Drawn
from .summary import Part
from .table_cells import Table

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
    ("relative", perplexity_comparisons.HEADING, (), ("objectives", "searches", "states")),
    ("searches", "Comparison of searches", ("fig7_cost", "fig3_variance"), ("search",)),
    (
        "masks",
        "How far masks and rankings agree",
        ("fig1_masks", "fig4_overlap", "fig2_ranks"),
        ("overlap", "overlap_by_objective", "agreement"),
    ),
    ("certainty", "How certain a mask is", ("fig8_stability",), ("sizes", "stability")),
    ("routing", routing.HEADING, (), ("routing",)),  # only in a study of tasks
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
