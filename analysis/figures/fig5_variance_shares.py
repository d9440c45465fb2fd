"""Figure 5: how much of each outcome's variance is due to the calibration, and how much to the search.

python -m analysis fig5 --results results --study small

The four outcomes are the mask (Jaccard distance), the calibration loss minus that of the dense model, the logarithm
of held-out perplexity, and accuracy. Variance components are computed within one model and one k. For the loss, they
are also computed within one objective, because losses of different objectives have no common unit. Bars are
95 percent intervals over calibration draws. Shares are in percent, cut off at 0 and 100; the CSV also has the
components, which can be negative. Sources that the study did not vary have no row.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..data.archive import NothingToRead, expanded
from ..data.load import choose, done, filter_column, merged, names
from ..data.study import AskedStudy, ItemAnswers
from ..stats import components, simulated, variance
from ..stats.agreement import controlled
from ..stats.components import (
    CALIBRATION,
    DRAWN,
    RESIDUAL,
    SOURCES,
    IntervalEstimate,
    Shares,
    item_noise,
)
from ..stats.grid import STRATUM, at, bare
from ..stats.means import rivals
from ..stats.simulated import RATIOS, Decided, NoiseAlone, Pilot, noise_alone
from ..stats.variance import between
from .cli import arguments, run
from .style import COLOURS, GREY, SMALL, TITLE, legend, line_key, number, panels, save, wrapped

PARTS = {"calibration": COLOURS[0], "search": COLOURS[1], "interaction": COLOURS[2]}
RATIO_FIELDS = {
    "cal : search": "total_ratio",
    "obj : search": "objective_ratio",
    "obj : draw": "objective_draw",
}
LEVEL = 0.05  # of q


def draw(by_outcome: dict[str, Shares], table: pd.DataFrame, title: str) -> Figure:
    """A panel for each outcome, with one row for each part and each source that some outcome has."""
    rows = _rows(table)
    figure, grid = panels(1, len(by_outcome), 2.1, 1.15 + 0.235 * len(rows), title)
    for j, (label, shares) in enumerate(by_outcome.items()):
        axes = grid[0][j]
        axes.set_title(_heading(label, shares), fontsize=SMALL + 0.5, linespacing=1.35, loc="left")
        _panel(axes, rows, table[table["outcome"] == label].set_index("source"), shares.note, label == LOSS)
        axes.set_yticks(range(len(rows)), rows if j == 0 else [""] * len(rows), fontsize=TITLE - 1)
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
    legend(
        figure,
        {},
        note + "ratios: calibration (cal), objective (obj), with interactions on both sides of ': search'",
        keys,
    )
    return figure


def _rows(table: pd.DataFrame) -> list[str]:
    """The parts, an empty row, and the sources that have a share in some outcome."""
    known = set(table.loc[table["share"].notna(), "source"])
    return [*PARTS, "", *(name for name in (*(s.name for s in SOURCES), RESIDUAL) if name in known)]


def _heading(label: str, shares: Shares) -> str:
    first, *rest = wrapped(label, 22, " (").split("\n")
    name = "\n".join([first, *(f"({line}" for line in rest)]) if rest else f"{first}\n"
    ratios: dict[str, IntervalEstimate] = {pair: getattr(shares, name) for pair, name in RATIO_FIELDS.items()}
    known = [pair for pair, ratio in ratios.items() if not np.isnan([ratio.low, ratio.value]).all()]
    lines = [f"{pair} {ratio_text(ratios[pair])}" for pair in known]
    ends = {part: end for pair in known for part, end in upper_ends(shares, RATIO_FIELDS[pair]).items()}
    bounds = [f"{part} at most {percent_text(end)} %" for part, end in ends.items()]
    return "\n".join([name, *lines, *bounds])


def _panel(axes: Axes, names: list[str], rows: pd.DataFrame, note: str, loss: bool) -> None:
    axes.axhline(len(PARTS), color="0.9", lw=0.8)
    for y, name in enumerate(names):
        if not name:
            continue
        row: Any = rows.loc[name] if name in rows.index else {"share": np.nan, "df": 0}
        if np.isnan(row["share"]):
            axes.text(2, y, _absent(name, row, loss), fontsize=SMALL, color="0.5", va="center")
            continue
        _point(axes, y, name, row)
    axes.set(xlim=(-3, 106), ylim=(len(names) - 0.4, -0.6), xticks=[0, 25, 50, 75, 100])
    axes.grid(axis="x", color="0.93", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    if note:
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.75, wrapped(note, 30, " "), fontsize=SMALL, color=GREY, **middle)


def _point(axes: Axes, y: int, name: str, row: Any) -> None:
    """Draw a share with its interval. The marker says whether the source was tested, and with which result."""
    colour = PARTS.get(name, _colour(name))
    share, low, high = (100 * row[column] for column in ("share", "low", "high"))
    if not np.isnan(low):
        axes.plot([low, high], [y, y], color=colour, lw=2.2 if name in PARTS else 1.3, alpha=0.6)
    axes.plot(share, y, color=colour, ls="", clip_on=False, **_marker(name, row))


def _marker(name: str, row: Any) -> dict[str, Any]:
    if name in PARTS:
        return {"marker": "s", "ms": 5.5}
    if np.isnan(row["q"]):
        return {"marker": "|", "ms": 8, "mew": 1.8}
    return {"marker": "o", "ms": 5} | ({} if row["q"] <= LEVEL else {"mfc": "white"})


def _absent(name: str, row: Any, loss: bool) -> str:
    """Why a source has no share."""
    if loss and name.startswith("objective"):
        return "no common unit"
    return "not varied" if row["df"] == 0 else "refused"


def _colour(name: str) -> str:
    if name in CALIBRATION:
        return PARTS["calibration"]
    return PARTS["search"] if name == "algorithm" else PARTS["interaction"]


def _write(given: argparse.Namespace, study: AskedStudy) -> list[Path]:
    frame, title = study.frame, study.title
    finished = done(frame)
    known = given.accuracy or names(finished, "acc")
    answers = study.answers(choose(finished, "acc", given.accuracy).names) if known else UNKNOWN
    by_outcome, table = measure(finished, outcomes(finished, given.perplexity, given.accuracy), answers)
    return save(
        draw(by_outcome, table, title),
        table,
        given.out,
        "fig5_variance_shares",
        {"fig5_between": across(finished, outcomes(finished, given.perplexity, given.accuracy))},
    )


def main() -> None:
    """Draw the figure for a results folder."""
    run(
        "fig5_variance_shares",
        arguments("Shares of variance: calibration against search.", metrics=True),
        _write,
    )


# How many calibration draws does a study need? In how many simulated studies each number of draws would decide.
#
# python -m analysis power --results results --study small --draws 3,6,12 --studies 40
#
# The simulated studies have the shares of variance that figure 5 shows for a study that was run, and its
# objectives, data and searches, with the given numbers of draws of each data set. docs/statistics.md ("How many
# draws?") says what is assumed.

log = logging.getLogger(__name__)

DRAWS, STUDIES = (3, 6, 12), 40


@dataclass(frozen=True)
class Line:
    """What is known of an outcome with a number of draws. `note` says why nothing is known."""

    label: str
    draws: str
    found: dict[str, Decided] = field(default_factory=dict)
    note: str = ""


def lines(study: AskedStudy, draws: Sequence[int], studies: int) -> list[Line]:
    """For each outcome of a study, a line for each number of draws.

    An outcome whose shares cannot be estimated has one line. Raises NothingToRead if this is so for all outcomes.
    """
    pilots, refused = _pilots(study)
    if not pilots:
        raise NothingToRead(
            f"no study can be simulated from this one ({refused[0].note}): run it with two draws of each calibration "
            "and two searches, or select other cells with --only."
        )
    found, total = list[Line](), len(pilots) * len(draws)
    for label, pilot in pilots.items():
        for n in draws:
            log.info("power    %d of %d: %s, %d draws", len(found) + 1, total, label, n)
            scenario = pilot.scenario(n)
            note = scenario.design.no_interval
            found.append(Line(label, str(n), {} if note else simulated.power(scenario, studies), note))
    return found + refused


def _pilots(study: AskedStudy) -> tuple[dict[str, Pilot], list[Line]]:
    """The pilot of each outcome, and a line for each outcome that has none."""
    cells = done(study.frame)
    named = outcomes(cells, None, None)
    answers = study.answers(choose(cells, "acc").names) if names(cells, "acc") else UNKNOWN
    log.info("power    estimating the shares of %d cells", len(cells))
    shares, _ = measure(cells, named, answers)
    pilots, refused = {}, []
    for label, (values, by) in named.items():
        use = rivals(cells)
        use = use if values is None else use[values.loc[use.index].notna()]
        if note := simulated.power_refusal(use, shares[label]):
            refused.append(Line(label, "", note=note))
            continue
        of = variance.plain(use, None if values is None else values.loc[use.index], by)
        pilots[label] = Pilot.of(use, of, by, shares[label])
    return pilots, refused


def text(title: str, found: Sequence[Line], studies: int) -> Iterator[str]:
    """The lines of the printed table."""
    yield f"Simulated studies in which a ratio is decided, of {studies} each; shares and noise are those of"
    yield title
    yield ""
    yield f"{'':<44}" + "".join(f"{name:^31}" for name in RATIOS).rstrip()
    yield f"{'outcome':<36}{'draws':>6}  " + f"{'ratio':>8}{'decided':>11}{'if equal':>12}" * len(RATIOS)
    for line in found:
        cells = "".join(_counts(line.found.get(name)) for name in RATIOS)
        yield f"{line.label:<36}{line.draws:>6}  " + (f"  {line.note}" if line.note else cells)
    yield ""
    yield "ratio: the true ratio of the simulated studies. decided: the 95 percent interval leaves out 1."
    yield "if equal: the same, in studies whose true ratio is 1."


def _counts(found: Decided | None) -> str:
    if found is None:
        return f"{'-':>8}{'-':>11}{'-':>12}"
    counts = (f"{n} of {found.studies}" for n in (found.decided, found.if_equal))
    return "{:>8}{:>11}{:>12}".format(number(found.value), *counts)


def power() -> None:
    """Print the table for a study. If files of the study are damaged, name them and end with exit code 1."""
    given = _arguments()
    study = AskedStudy(given.results, given.study, given.only)
    found = lines(study, given.draws, given.studies)
    print("\n".join(text(study.title, found, given.studies)))  # noqa: T201
    for damage in study.damages:
        log.warning("damaged  %s", damage)
    if study.damages:
        raise SystemExit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis power", description="How many draws are needed?"
    )
    where = "a results folder, an archive (*.tar.xz), or an MLflow store: sqlite:///FILE, http://HOST:PORT"
    parser.add_argument("--results", default="results", type=expanded, help=where)
    parser.add_argument("--study", default=None, help="use the cells of this study only; default: all cells")
    kept = "use only cells that have one of these values; may be repeated"
    parser.add_argument(
        "--only", type=filter_column, action="append", default=[], metavar="COLUMN=VALUE,VALUE", help=kept
    )
    of_each = "numbers of draws of each data set, with commas; default: 3,6,12"
    parser.add_argument("--draws", type=_numbers, default=DRAWS, metavar="N,N", help=of_each)
    simulated = f"simulated studies for each number of draws; default: {STUDIES}"
    parser.add_argument("--studies", type=_count, default=STUDIES, metavar="N", help=simulated)
    given = parser.parse_args()
    given.only = merged(given.only)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(__name__.partition(".figures")[0]).setLevel(logging.INFO)
    return given


def _numbers(listed: str) -> list[int]:
    """Parse `3,6,12`. Used as an argparse type."""
    return [_at_least(2, part, "the numbers of draws") for part in listed.split(",")]


def _count(written: str) -> int:
    """Parse the number of studies. Used as an argparse type."""
    return _at_least(1, written, "the number of studies")


def _at_least(least: int, written: str, what: str) -> int:
    if not written.strip().isdecimal() or int(written) < least:
        raise argparse.ArgumentTypeError(f"'{written}' is not possible: {what} must be {least} or more")
    return int(written)


# Ratios of shares of variance for sentences. A ratio without an upper end shows how small its second side is.

# The ratios of `Shares`, and the parts on their second side.
SECOND = {
    "total_ratio": ("search", "interaction"),
    "objective_ratio": ("search", "interaction"),
    "ratio": ("search",),
    "objective_draw": ("draw",),
}


def ratio_words(shares: Shares, name: str) -> str:
    """A ratio of `shares` for a sentence: `above 45 (the search explains at most 1 percent)`."""
    text, most = ratio_text(getattr(shares, name)), upper_ends(shares, name)
    if not most:
        return text
    (first, share), *others = most.items()
    words = [f"the {first} explains at most {percent_text(share)} percent"]
    words += [f"the {other} at most {percent_text(share)}" for other, share in others]
    return f"{text} ({', '.join(words)})"


def percent_text(share: float) -> str:
    """A share in percent: `44`, or `0.3` if it is less than one percent."""
    return f"{100 * share:.1g}" if 0 < share < 0.01 else f"{100 * share:.0f}"


def upper_ends(shares: Shares, name: str) -> dict[str, float]:
    """The upper ends of the shares on the second side of a ratio, if the ratio has no upper end."""
    ratio: IntervalEstimate = getattr(shares, name)
    return {part: _upper_end(shares, part) for part in SECOND[name]} if unbounded(ratio) else {}


def _upper_end(shares: Shares, part: str) -> float:
    if part == "draw":
        return at(shares.sources.set_index("source"), DRAWN, "high")
    return shares.parts[part].high


# The numbers of figure 5: shares of variance of four outcomes, with intervals and permutation p-values.

NO_SHARE = 1e9  # a share is 0 if another one is so many times as large
LOSS = "calibration loss"
MASKS = "masks"
UNKNOWN = ItemAnswers(note="the answers to single items were not asked for")
WITHIN = {MASKS: ("model",), LOSS: ("objective",)}


def outcomes(frame: pd.DataFrame, perplexity: str | None, accuracy: str | None) -> dict[str, Any]:
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


def measure(
    frame: pd.DataFrame, named: dict[str, Any], answers: ItemAnswers = UNKNOWN
) -> tuple[dict[str, Shares], pd.DataFrame]:
    """The shares of each outcome, and one table of all numbers. The table has permutation p-values with their q.

    `answers` are those of the frame's cells, row by row. If there are any, the noise of the items is subtracted from
    the accuracy's sums of squares.
    """
    by_outcome, records = {}, list[dict[Any, Any]]()
    for label, (values, by) in named.items():
        use, known, rows = _used(frame, values)
        of = variance.outcome(use, known, by)
        shares = _shares(use, known, by, answers.take(rows) if accuracy(label) else UNKNOWN)
        by_outcome[label] = shares
        tested = variance.table(use, of, by)
        merged = tested.rename(columns={"share": "ss_share", "note": "p_note"})
        merged = merged.merge(shares.sources.drop(columns="df"), on="source", how="left")
        both = _totals(shares).to_dict("records") + merged.to_dict("records")
        records += [{"outcome": label, **record, "note": shares.note} for record in both]
    table = pd.DataFrame(records)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high"]
    return by_outcome, table[[*first, *(c for c in table if c not in first)]]


def accuracy(label: str) -> bool:
    """Whether an outcome is an accuracy."""
    return label not in (MASKS, LOSS) and not label.startswith("log ")


def _shares(
    use: pd.DataFrame, known: NDArray[np.float64] | None, by: Sequence[str], answers: ItemAnswers
) -> Shares:
    items = item_noise(answers.tasks) if answers.tasks else None
    return components.shares(use, variance.plain(use, known, by), by, items=items)


def calibration_perplexity(frame: pd.DataFrame) -> Shares:
    """Shares of the logarithm of calibration perplexity above the dense model's, in the cells pruned for it.

    Data differ in perplexity before anything is removed, so only the rise says what removal does. Raises
    NothingToRead if no cell minimises perplexity.
    """
    cells = frame[frame["objective"] == "perplexity"]
    if cells.empty:
        raise NothingToRead("no cell was pruned for perplexity.")
    use, known, _ = _used(cells, cells["loss"] - cells["dense_loss"])
    return components.shares(use, variance.plain(use, known))


def alone(frame: pd.DataFrame, values: pd.Series[float], answers: ItemAnswers) -> NoiseAlone:
    """How often noise alone would decide whether calibration or search matters more for an accuracy."""
    use, _, rows = _used(frame, values)
    return noise_alone(use, answers.take(rows).tasks or None)


def _used(
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
    frame = frame.assign(
        model=kinds, removal=[m.removeprefix(k) for m, k in zip(frame["model"], kinds, strict=True)]
    )
    parts = []
    for label, (values, _) in named.items():
        use, known, _ = _used(frame, values)
        within = WITHIN.get(label, ())
        sources = between(use, known, (*within, "removal"))
        undefined = sources["source"].map(lambda name, w=within: any(column in name for column in w))
        sources.loc[undefined, "note"] = f"not defined: compared within one {' and '.join(within)} only"
        parts.append(sources.assign(outcome=label))
    table = pd.concat(parts, ignore_index=True)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high", "p", "q"]
    return table[[*first, *(c for c in table if c not in first)]]


def _totals(shares: Shares) -> pd.DataFrame:
    """One row for each of the three parts and the four ratios."""
    rows: list[tuple[str, IntervalEstimate]] = list(shares.parts.items())
    rows += [
        ("calibration : search", shares.total_ratio),
        ("objective : search", shares.objective_ratio),
        ("objective : draw", shares.objective_draw),
        ("calibration : search, without interaction", shares.ratio),
    ]
    return pd.DataFrame(
        [[n, e.value, e.low, e.high] for n, e in rows], columns=["source", "share", "low", "high"]
    )


def unbounded(ratio: IntervalEstimate) -> bool:
    """Whether the interval of a ratio has no upper end, up to the rounding of a share that is 0."""
    return ratio.high > NO_SHARE


def ratio_text(ratio: IntervalEstimate) -> str:
    """A ratio with its interval, for a table in which the shares are beside it (in a sentence: `ratio_words`).

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
