"""The figures of `make figures`, embedded in the report as SVG. If drawing fails, the page says why."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from ..data.errors import NothingToRead
from ..data.metrics import choose, of_windows
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
    mask_overlaps,
    search_progress,
    search_ranks,
    search_spread,
)
from ..stats import overlap_pairs
from .study_data import StudyData

log = logging.getLogger(__name__)


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
    return fig2_ranks.draw(search_ranks.ranks(m.frame, *both), m.title, (both[0].label, both[1].label))


def _spread(m: StudyData) -> Figure:
    metrics = {"perplexity": choose(m.frame, "ppl"), "accuracy": choose(m.frame, "acc")}
    return fig3_variance.draw(m.frame, search_spread.spread(m.frame, metrics), m.title, metrics)


def _crossed(m: StudyData) -> Figure:
    choose(m.frame, "ppl")
    return fig6_crossed.draw(m.frame, *m.crossed, m.title)


def _cost(m: StudyData) -> Figure:
    curves, ends = search_progress.measure(m.frame, m.traces, m.lines)
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
            mask_overlaps.heat(m.frame), m.overlaps, m.title, overlap_pairs.note(m.cells)
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


def drawn(study: StudyData) -> Iterator[Drawn]:
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
