"""Figure 5: how much of each outcome's variance is due to the calibration, and how much to the search.

depth-pruning figure fig5 --results results --study small

The four outcomes are the mask (Jaccard distance), the calibration loss minus that of the dense model, the logarithm
of held-out perplexity, and accuracy. Variance components are computed within one model and one k. For the loss, they
are also computed within one objective, because losses of different objectives have no common unit. Bars are
95 percent intervals over calibration draws. Shares are in percent, cut off at 0 and 100; the CSV also has the
components, which can be negative. Sources that the study did not vary have no row.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.archive import NothingToRead
from ..data.load import choose, done, names
from ..data.study import AskedStudy, ItemAnswers
from ..stats import components, variance
from ..stats.agreement import controlled
from ..stats.components import CALIBRATION, DRAWN, RESIDUAL, SOURCES, IntervalEstimate, Shares, item_noise
from ..stats.grid import STRATUM, at, bare
from ..stats.means import rivals
from ..stats.simulated import NoiseAlone, noise_alone
from ..stats.variance import between
from . import style
from .cli import Drawing, StudyFigure, once
from .style import COLOURS, SMALL, line_key, number, rows_of, wrapped

PARTS = {"calibration": COLOURS[0], "search": COLOURS[1], "interaction": COLOURS[2]}
# The ratios of `Shares` in the headings, and the parts on the second side of every ratio.
HEADED = {"cal : search": "total_ratio", "obj : search": "objective_ratio", "obj : draw": "objective_draw"}
SECOND = {
    "total_ratio": ("search", "interaction"),
    "objective_ratio": ("search", "interaction"),
    "ratio": ("search",),
    "objective_draw": ("draw",),
}
LEVEL = 0.05  # of q


def draw(by_outcome: dict[str, Shares], table: pd.DataFrame, title: str) -> Figure:
    """A panel for each outcome, with one row for each part and each source that some outcome has."""
    known = set(table.loc[table["share"].notna(), "source"])
    rows = [*PARTS, "", *(name for name in (*(s.name for s in SOURCES), RESIDUAL) if name in known)]
    figure, (line,) = style.panels(1, len(by_outcome), 2.1, 1.15 + 0.235 * len(rows), title)
    for axes, (label, shares) in zip(line, by_outcome.items(), strict=True):
        axes.set_title(_heading(label, shares), fontsize=SMALL + 0.5, linespacing=1.35, loc="left")
        _panel(axes, rows, rows_of(table, outcome=label).set_index("source"), shares.note, label == LOSS)
        shown = rows if axes is line[0] else [""] * len(rows)
        axes.set_yticks(range(len(rows)), shown, fontsize=style.TITLE - 1)
        axes.set_xlabel("share of variance, %", fontsize=SMALL + 0.5)
    keys = [
        line_key("sum of sources", marker="s", ls="", ms=5.5),
        line_key(f"q at most {LEVEL}", marker="o", ls="", ms=5),
        line_key("q larger", marker="o", ls="", ms=5, mfc="white"),
        line_key("not tested", marker="|", ls="", ms=8, mew=1.8),
        line_key("95 % interval", lw=1.3),
    ]
    note = "share of the variance within model and k; intervals over calibration draws; shares are cut off at 0 and "
    note += "100 %; q: permutation test, false discovery rate controlled; "
    note += "ratios: calibration (cal), objective (obj), with interactions on both sides of ': search'"
    style.legend(figure, {}, note, keys)
    return figure


def _heading(label: str, shares: Shares) -> str:
    first, *rest = wrapped(label, 22, " (").split("\n")
    lines = ["\n".join([first, *(f"({line}" for line in rest)]) if rest else f"{first}\n"]
    ends: dict[str, float] = {}
    for pair, name in HEADED.items():
        ratio = getattr(shares, name)
        if not np.isnan([ratio.low, ratio.value]).all():
            lines.append(f"{pair} {ratio_text(ratio)}")
            ends |= upper_ends(shares, name)
    return "\n".join([*lines, *(f"{part} at most {percent_text(end)} %" for part, end in ends.items())])


def _panel(axes: Axes, names: Sequence[str], rows: pd.DataFrame, note: str, loss: bool) -> None:
    axes.axhline(len(PARTS), color="0.9", lw=0.8)
    for y, name in enumerate(names):
        row: Any = rows.loc[name] if name in rows.index else {"share": np.nan, "df": 0}
        if name and np.isnan(row["share"]):
            reason = "not varied" if row["df"] == 0 else "refused"
            reason = "no common unit" if loss and name.startswith("objective") else reason
            axes.text(2, y, reason, fontsize=SMALL, color="0.5", va="center")
        elif name:
            share, low, high = (100 * row[column] for column in ("share", "low", "high"))
            marker = _marker(name, row) | {"clip_on": False, "mec": None}
            style.interval(axes, share, y, [low, high], (_colour(name), "o"), sideways=True, **marker)
    axes.set(xlim=(-3, 106), ylim=(len(names) - 0.4, -0.6), xticks=[0, 25, 50, 75, 100])
    axes.grid(axis="x", color="0.93", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if note:
        text = axes.text(0.5, 0.75, wrapped(note, 30, " "), fontsize=SMALL, color=style.GREY)
        text.set(ha="center", va="center", transform=axes.transAxes)


def _marker(name: str, row: Any) -> dict[str, Any]:
    """The marker says whether a source was tested, and with which result."""
    if name in PARTS:
        return {"marker": "s", "ms": 5.5}
    if np.isnan(row["q"]):
        return {"marker": "|", "ms": 8, "mew": 1.8}
    return {"marker": "o", "ms": 5, "mew": 1.0} | ({} if row["q"] <= LEVEL else {"mfc": "white"})


def _colour(name: str) -> str:
    part = "calibration" if name in CALIBRATION else "search" if name == "algorithm" else "interaction"
    return PARTS.get(name, PARTS[part])


# Ratios of shares as text. A ratio without an upper end shows how small its second side is.

NO_SHARE = 1e9  # a share is 0 if another one is so many times as large


def unbounded(ratio: IntervalEstimate) -> bool:
    """Whether the interval of a ratio has no upper end, up to the rounding of a share that is 0."""
    return ratio.high > NO_SHARE


def ratio_text(ratio: IntervalEstimate) -> str:
    """A ratio with its interval, for a table in which the shares are beside it.

    Without an upper end, only the lower end is shown; no ratio is infinite. If the second share is 0 in all
    resamples, up to the rounding of numbers, there is no ratio.
    """
    if ratio.low > NO_SHARE or (np.isnan(ratio.low) and ratio.value > NO_SHARE):
        return "no ratio"
    if np.isnan(ratio.low):
        return number(ratio.value)
    if unbounded(ratio):
        if ratio.low == 1:  # neither side may explain anything, so only the interaction is left on both
            return "at least 1"
        return f"above {number(ratio.low)}" if ratio.low > 0 else "not determined"
    return f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"


def upper_ends(shares: Shares, name: str) -> dict[str, float]:
    """The upper ends of the shares on the second side of a ratio, if the ratio has no upper end."""
    if not unbounded(getattr(shares, name)):
        return {}
    if name == "objective_draw":
        return {"draw": at(shares.sources.set_index("source"), DRAWN, "high")}
    return {part: shares.parts[part].high for part in SECOND[name]}


def percent_text(share: float) -> str:
    """A share in percent: `44`, or `0.3` if it is less than one percent."""
    return f"{100 * share:.1g}" if 0 < share < 0.01 else f"{100 * share:.0f}"


# The numbers of the figure: shares of variance of four outcomes, with intervals and permutation p-values.

LOSS, MASKS = "calibration loss", "masks"
UNKNOWN = ItemAnswers(note="the answers to single items were not asked for")
WITHIN = {MASKS: ("model",), LOSS: ("objective",)}


def outcomes(
    frame: pd.DataFrame, perplexity: str | None = None, accuracy: str | None = None
) -> dict[str, Any]:
    """For each outcome label: one value per cell (None if the outcome is the mask), and the columns of its strata.

    Perplexity and accuracy are outcomes only if they were measured. Raises NothingToRead if a named one was not.
    """
    known: dict[str, Any] = {
        MASKS: (None, STRATUM),
        LOSS: (frame["loss"] - frame["dense_loss"], [*STRATUM, "objective"]),
    }
    if perplexity or names(frame, "ppl"):
        ppl = choose(frame, "ppl", perplexity)
        known[f"log {ppl.label}"] = (np.log(ppl.of(frame)), STRATUM)
    if accuracy or names(frame, "acc"):
        acc = choose(frame, "acc", accuracy)
        known[acc.label] = (acc.of(frame), STRATUM)
    return known


def is_accuracy(label: str) -> bool:
    """Whether an outcome is an accuracy."""
    return label not in (MASKS, LOSS) and not label.startswith("log ")


@once
def answers(study: AskedStudy, accuracy: str | None = None) -> ItemAnswers:
    """The answers of the finished cells to every item of the accuracy, if it was measured."""
    finished = done(study.frame)
    known = accuracy or names(finished, "acc")
    return study.answers(choose(finished, "acc", accuracy).names) if known else UNKNOWN


@once
def shares_of(
    study: AskedStudy, perplexity: str | None = None, accuracy: str | None = None
) -> tuple[dict[str, Shares], pd.DataFrame]:
    """The shares of each outcome of a study, and one table of all numbers (see `measure`)."""
    finished = done(study.frame)
    return measure(finished, outcomes(finished, perplexity, accuracy), answers(study, accuracy))


def measure(
    frame: pd.DataFrame, named: dict[str, Any], answers: ItemAnswers = UNKNOWN
) -> tuple[dict[str, Shares], pd.DataFrame]:
    """The shares of each outcome, and one table of all numbers. The table has permutation p-values with their q.

    `answers` are those of the frame's cells, row by row. If there are any, the noise of the items is subtracted from
    the accuracy's sums of squares.
    """
    by_outcome, records = {}, list[dict[Any, Any]]()
    for label, (values, by) in named.items():
        use, known, rows = used(frame, values)
        tasks = answers.take(rows).tasks if is_accuracy(label) else {}
        noise = item_noise(tasks) if tasks else None
        shares = components.shares(use, variance.plain(use, known, by), by, items=noise)
        by_outcome[label] = shares
        totals: dict[str, IntervalEstimate] = {
            **shares.parts,
            "calibration : search": shares.total_ratio,
            "objective : search": shares.objective_ratio,
            "objective : draw": shares.objective_draw,
            "calibration : search, without interaction": shares.ratio,
        }
        first = [{"source": n, "share": e.value, "low": e.low, "high": e.high} for n, e in totals.items()]
        tested = variance.table(use, variance.outcome(use, known, by), by)
        merged = tested.rename(columns={"share": "ss_share", "note": "p_note"})
        merged = merged.merge(shares.sources.drop(columns="df"), on="source", how="left")
        both: list[dict[Any, Any]] = [*first, *merged.to_dict("records")]
        records += [{"outcome": label, **record, "note": shares.note} for record in both]
    table = pd.DataFrame(records)
    table["q"] = controlled(list(table["p"]))
    first_columns = ["outcome", "source", "share", "low", "high"]
    return by_outcome, table[[*first_columns, *(c for c in table if c not in first_columns)]]


def calibration_perplexity(frame: pd.DataFrame) -> Shares:
    """Shares of the logarithm of calibration perplexity above the dense model's, in the cells pruned for it.

    Data differ in perplexity before anything is removed, so only the rise says what removal does. Raises
    NothingToRead if no cell minimises perplexity.
    """
    cells = rows_of(frame, objective="perplexity")
    if cells.empty:
        raise NothingToRead("no cell was pruned for perplexity.")
    use, known, _ = used(cells, cells["loss"] - cells["dense_loss"])
    return components.shares(use, variance.plain(use, known))


def noise_of_accuracy(frame: pd.DataFrame, values: pd.Series[float], answers: ItemAnswers) -> NoiseAlone:
    """How often noise alone would decide whether calibration or search matters more for an accuracy."""
    use, _, rows = used(frame, values)
    return noise_alone(use, answers.take(rows).tasks or None)


def used(
    frame: pd.DataFrame, values: pd.Series[float] | None
) -> tuple[pd.DataFrame, NDArray[np.float64] | None, NDArray[np.int64]]:
    """The cells that have a value, these values (None if the outcome is the mask), and the rows of these cells.

    Cells of the reference search are left out.
    """
    numbered = pd.Series(np.arange(len(frame)), index=frame.index)
    use = rivals(frame)
    known = None if values is None else values.loc[use.index].dropna()
    use = use if known is None else use.loc[known.index]
    rows = numbered.loc[use.index].to_numpy().astype(np.int64)
    return use.reset_index(drop=True), None if known is None else np.asarray(known, np.float64), rows


def across(frame: pd.DataFrame, named: dict[str, Any]) -> pd.DataFrame:
    """Shares of the sum of squares for model, ratio and their interactions.

    q controls the false discovery rate over all tests. Masks of different models are not compared,
    because no distance between such masks is defined. For the same reason, losses of different objectives are not
    compared. Cells with other units, budgets or compensations are never compared: each kind counts by itself.
    """
    kinds = frame["model"].map(bare)
    removal = [m.removeprefix(k) for m, k in zip(frame["model"], kinds, strict=True)]
    frame = frame.assign(model=kinds, removal=removal)
    parts = []
    for label, (values, _) in named.items():
        use, known, _ = used(frame, values)
        within = WITHIN.get(label, ())
        sources = between(use, known, (*within, "removal"))
        undefined = sources["source"].map(lambda name, w=within: any(column in name for column in w))
        sources.loc[undefined, "note"] = f"not defined: compared within one {' and '.join(within)} only"
        parts.append(sources.assign(outcome=label))
    table = pd.concat(parts, ignore_index=True)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high", "p", "q"]
    return table[[*first, *(c for c in table if c not in first)]]


@once
def across_of(study: AskedStudy, perplexity: str | None = None, accuracy: str | None = None) -> pd.DataFrame:
    """The shares of model and ratio in a study (see `across`)."""
    finished = done(study.frame)
    return across(finished, outcomes(finished, perplexity, accuracy))


def _build(study: AskedStudy, given: Namespace) -> Drawing:
    by_outcome, table = shares_of(study, given.perplexity, given.accuracy)
    others = {"fig5_between": across_of(study, given.perplexity, given.accuracy)}
    return Drawing(draw(by_outcome, table, study.title), table, others)


FIGURE = StudyFigure(
    name="fig5_variance_shares",
    heading="How much is calibration, how much is search",
    build=_build,
    metrics=True,
    section="variance",
    caption="Shares of the variance of four outcomes, with intervals, within one model and one number of removed "
    "blocks.",
)
