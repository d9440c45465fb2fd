"""The report's entries, one per cell. An entry has the mask, the progress of the search, margins and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from pruning.core.errors import PruningError
from pruning.core.mask import BudgetRecord, Mask, unit_noun
from pruning.core.records import (
    CLASS,
    CURVE,
    LABELS,
    LOG,
    METRIC,
    MODELS,
    OPTION,
    SHOWN,
    DoneResult,
    HealRecord,
    Kind,
    MarginsRecord,
    Point,
    Result,
    error_of,
    heldout,
    leaves,
    metrics_among,
    read,
    read_continuations,
)
from pruning.core.scoring import TraceLine, plus_minus
from pruning.core.units import bytes_text

from ..data.archive import NothingToRead
from ..data.load import standard_error
from ..figures.style import DASH, number, ordered
from ..stats import crossed
from ..stats.agreement import most
from ..stats.grid import bare, mask_of, removed
from ..stats.grid import groups as groups_of
from ..stats.means import rivals
from ..stats.outcome_errors import spans
from .study_data import OPEN, StudyData, count, of

TAIL = 15  # the number of lines shown from the end of launch.log


@dataclass(frozen=True)
class CellEntry:
    """What the page shows of one cell. `anchor` is the id of its HTML element."""

    anchor: str
    cell: str
    status: str
    name: str
    short: str = ""
    strip: Markup | None = None
    mask: Markup | None = None
    curve: Markup | None = None
    heal: Markup | None = None
    continuations: ContinuationTable | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    measured: list[tuple[str, str, str]] = field(default_factory=list)
    error: str = ""
    log: str = ""


@dataclass(frozen=True)
class Group:
    """The cells with the same model, number of removed blocks and objective. `count` says how many have an entry."""

    heading: str
    anchor: str
    count: str
    entries: list[CellEntry]


def anchor(cell: str) -> str:
    """The id of a cell's element in the page."""
    return f"cell-{cell}"


def groups(m: StudyData) -> Iterator[Group]:
    """The shown cells (also missing and failed cells), grouped by model, number of removed blocks and objective."""
    where = ["model", "k", "objective"]
    panels = groups_of(m.frame, where)
    for number_, ((model, k, objective), cells) in enumerate(panels, start=1):
        position = {algo: i for i, algo in enumerate(ordered(cells["algo"].dropna()))}
        rank = cells["algo"].map(position)
        rows = cells.assign(rank=rank).sort_values(["rank", "calibration", "draw", "seed"])
        size = "" if pd.isna(k) else f", {removed(cells.iloc[0])}"
        heading = f"{bare(str(model))}{size}, pruned for {objective}"
        of = rows[rows["cell"].isin(m.shown)]
        if len(of):
            among = f"{len(of):,} of " if len(of) < len(rows) else ""
            entries = [_entry(m, row) for _, row in of.iterrows()]
            yield Group(heading, f"group-{number_}", f"{among}{len(rows)} cells", entries)


def _entry(m: StudyData, row: pd.Series[Any]) -> CellEntry:
    cell, status = str(row["cell"]), str(row["status"])
    common: dict[str, Any] = {"anchor": anchor(cell), "cell": cell, "status": status, "name": _name(row)}
    log = _tail(m, cell)
    record = m.records.get(cell)
    if status == "damaged":
        return CellEntry(**common, error=str(row["damage"]), log=log)
    if record is None:
        message = "This cell has no result: it was not run, or it was stopped before it finished."
        return CellEntry(**common, error=message, log=log)
    if record["status"] != "done":
        error = record["error"]
        return CellEntry(**common, error=f"{error['type']}: {error['message']}", log=log)
    mask = mask_of(row)
    steps, last = _steps(m.lines[cell], int(row["k"]), record["search"].get("budget"))
    return CellEntry(
        **common,
        short=_short(m, row),
        strip=strip(mask),
        mask=strip(mask, numbered=True),
        curve=curve(steps, last),
        heal=figure(m.results / cell, record["heal"]) if "heal" in record else None,
        continuations=continuations(m.results, record),
        facts=list(_facts(record, row, mask)),
        measured=list(_measured(record)),
        log=log,
    )


def _name(row: pd.Series[Any]) -> str:
    """What distinguishes a cell from others of its group: search, data, number and length of samples, seed."""
    data = "" if pd.isna(row["calibration"]) else f", {row['calibration']}"
    size = "" if pd.isna(row["samples"]) else f" {int(row['samples'])}"
    size += "" if pd.isna(row["length"]) else f" x {int(row['length'])}"
    seed = "" if pd.isna(row["seed"]) else f", seed {int(row['seed'])}"
    return f"{row['algo']}{data}{size}{seed}"


def _short(m: StudyData, row: pd.Series[Any]) -> str:
    frame = pd.DataFrame([row])
    values = {kind: float(metric.of(frame).iloc[0]) for kind, metric in m.metrics.items()}
    return ", ".join(f"{LABELS[k]} {number(v)}{' %' if k == 'acc' else ''}" for k, v in values.items())


def _steps(
    trace: list[TraceLine], k: int, budget: BudgetRecord | None
) -> tuple[list[tuple[int, float]], int]:
    """The improvements of the best loss as (masks scored, loss), and the total number of masks scored."""
    progress = crossed.anytime(trace, k, {}, budget)
    better = progress[progress["best"] < progress["best"].shift(fill_value=math.inf)]
    scored = len({tuple(score["dropped"]) for score in trace if score["dropped"]})
    return list(zip(better["scores"].astype(int), better["best"].astype(float), strict=True)), scored


def _facts(record: DoneResult, row: pd.Series[Any], mask: Mask) -> Iterator[tuple[str, str]]:
    search = record["search"]
    yield f"{'blocks' if mask.unit == 'block' else 'sub-layers'} removed", ", ".join(mask.names()) or "none"
    if (budget := search.get("budget")) is not None:
        share = (
            f"{100 * budget['removed']:.1f} % of the {budget['cost']} ({100 * budget['asked']:g} % asked for)"
        )
        yield "removed", f"{mask}, {share}"
    error = plus_minus(record["calibration"]["standard_error"])
    yield (
        "calibration loss",
        f"{row['loss']:.4f} {error} (nothing removed {row['dense_loss']:.4f})",
    )
    yield from _margins(record.get("margins"))
    yield "stopped", search["stopped"]
    scores = f"{search['evaluations_asked']:,.0f} asked, {search['evaluations_paid']:,.0f} paid"
    yield "scores", scores + (f", {row['shared']:,.0f} shared" if not pd.isna(row["shared"]) else "")
    yield "time", f"{row['seconds']:,.1f} s"
    for name, words in (("block_forwards", "block forwards"), ("block_forwards_alone", "without sharing")):
        if not pd.isna(row[name]):
            yield words, f"{row[name]:,.0f}"
    if not pd.isna(row["peak_memory"]):
        yield "peak memory", bytes_text(int(row["peak_memory"]))
    yield from facts(record)
    yield "commit", str(row["commit"])


def _margins(margins: MarginsRecord | None) -> Iterator[tuple[str, str]]:
    """Facts about the runner-up mask and about masks that tie with the chosen one."""
    if margins is None:
        yield "runner-up", "not recorded"
        return
    nearest = margins["runner_up"]
    if nearest is None:
        yield "runner-up", "none: no other mask of this size was scored"
        return
    distance = f"{nearest['difference']:+.4f} {plus_minus(nearest['standard_error'])}"
    yield "runner-up", f"{', '.join(map(str, nearest['dropped']))} at {distance}"
    yield (
        "ties",
        f"{margins['tied']} of {margins['compared']} compared masks are not significantly worse",
    )


def _measured(record: DoneResult) -> Iterator[tuple[str, str, str]]:
    """For each metric: its name, dense value and pruned value. Values include standard errors if recorded."""
    dense, pruned = record["evaluation"]["dense"], record["evaluation"]["pruned"]
    for name in metrics_among(pruned):
        yield name, _value(dense, name), _value(pruned, name)


def _value(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "not measured"
    error = metrics.get(error_of(name))
    digits = 3 if abs(metrics[name]) < 10 else 2
    return f"{metrics[name]:,.{digits}f}" + (f" ± {error:,.{digits}f}" if error is not None else "")


def _tail(m: StudyData, cell: str) -> str:
    """The last lines of the cell's log."""
    try:
        text = (m.results / cell / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:  # most often, there is no log
        return ""
    return "\n".join(text.splitlines()[-TAIL:])


# The configuration of a study: the settings that all its cells share, and the settings that vary between cells.

# The page does not show these settings. They determine where and how a study runs.
LEFT_OUT = ("paths.", "tracker", "launcher", "study")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration, its values, and the number of cells with each value."""

    name: str
    values: list[tuple[str, int]]


def settings(m: StudyData) -> tuple[list[Setting], list[Setting]]:
    """Settings that vary, and settings that all cells share. Both lists are in the order of the configuration."""
    configs = [dict(_flat(record["config"])) for record in m.records.values()]
    names = list(dict.fromkeys(name for config in configs for name in config))
    every = [
        Setting(name, _counted([config[name] for config in configs if name in config])) for name in names
    ]
    varied = [s for s in every if len(s.values) > 1]
    # A setting that only some cells have (say, an option of one search) counts as shared if its value never varies.
    return varied, [s for s in every if len(s.values) == 1]


def environments(m: StudyData) -> list[Setting]:
    """Commit, device and package versions of the cells."""
    every = [dict(_environment(record)) for record in m.records.values()]
    names = list(dict.fromkeys(name for environment in every for name in environment))
    return [
        Setting(name, _counted([environment[name] for environment in every if name in environment]))
        for name in names
    ]


def _environment(record: Result) -> Iterator[tuple[str, str]]:
    given = record["environment"]
    yield "commit", _shown(given["commit"])
    yield "device", _shown(given["device"])
    if "cpus" in given:
        yield "cpus", _shown(given["cpus"])
    yield from ((name, _shown(version)) for name, version in given["packages"].items())


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings by name. The class of a config group is listed under the name of the group, as in `algo = Beam`."""
    for name, value in leaves(config):
        if not name.startswith(LEFT_OUT) and not name.endswith(f".{OPTION}"):
            yield name.removesuffix(f".{CLASS}"), _shown(value)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _counted(values: Sequence[str]) -> list[tuple[str, int]]:
    return [(value, values.count(value)) for value in dict.fromkeys(values)]


# A table of what the dense and the smaller models wrote after the same prompts, for the entry of a cell.

WORDS: dict[Kind, str] = {
    "dense": "nothing removed",
    "pruned": "pruned",
    "uncompensated": "without compensation",
    "healed": "healed",
}


@dataclass(frozen=True)
class ContinuationTable:
    """Headings and rows of text; one row per prompt. `note` says why there are no rows."""

    heads: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""


def continuations(results: Path, record: DoneResult) -> ContinuationTable | None:
    """The first prompts of a cell with each model's greedy continuation; None if none were measured."""
    paths = record["evaluation"].get("records", {}).get(METRIC)
    if paths is None:
        return None
    columns: dict[str, list[str]] = {}
    for which in (kind for kind in MODELS if kind in paths):
        try:
            kept = read_continuations(results / paths[which])
        except (PruningError, OSError) as error:
            return ContinuationTable(note=str(error))
        if kept is not None:
            columns |= {"prompt": kept["prompts"], WORDS[which]: kept["texts"]}
    if len(columns) < 2:
        return ContinuationTable(note="The files of the continuations are not in the results folder.")
    rows = list(zip(*columns.values(), strict=True))[:SHOWN]
    return ContinuationTable(list(columns), rows)


# A small SVG drawing of a healing: the held-out loss and the training loss over tokens.


def healing(points: Sequence[Point]) -> Markup:
    """A line through the held-out losses and a dot for each training loss; empty without held-out losses."""
    judged = [(point["tokens"], point["heldout_loss"]) for point in heldout(points)]
    trained = [(point["tokens"], point["loss"]) for point in points if "loss" in point]
    if not judged:
        return Markup("")
    last = max(point["tokens"] for point in points) or 1
    values = [loss for _, loss in (*judged, *trained)]
    low, span = min(values), (max(values) - min(values)) or 1.0

    def place(tokens: float, loss: float) -> tuple[float, float]:
        return 8 + (WIDTH - 16) * tokens / last, 8 + (HEIGHT - 30) * (1 - (loss - low) / span)

    path = "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in judged)
    dots = "".join('<circle cx="{:.1f}" cy="{:.1f}" r="1"/>'.format(*place(*point)) for point in trained)
    first, final = judged[0][1], min(loss for _, loss in judged)
    words = f"Held-out loss of the healing: {first:.4f} before, {final:.4f} at best, over {last:,} tokens"
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">'
        f'<path class="axis" d="M8 {HEIGHT - 18:g}H{WIDTH - 8:g}"/><path class="line" d="M{path}"/>{dots}'
        f'<text class="start" x="8" y="{HEIGHT - 6:g}">healing: {number(first)} to {number(final)} nats</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{HEIGHT - 6:g}">{last:,} tokens</text>'
        "</svg>"
    )


def figure(cell: Path, record: HealRecord) -> Markup:
    """The drawing of a cell's healing; empty if its curve is missing or damaged."""
    try:
        return healing(read(cell / record["folder"] / CURVE))
    except ValueError:  # a line that is no JSON; the command names the file at its end
        return Markup()


def facts(record: Any) -> Iterator[tuple[str, str]]:
    """What a healing cost and what it gained, as facts about a finished cell; nothing without a healing."""
    if (heal := record.get("heal")) is None:
        return
    yield (
        "healing",
        f"{heal['settings']['class'].lower()}, {heal['tokens']:,} tokens in {heal['seconds']:,.0f} s",
    )
    if (selection := heal.get("selection")) is not None:
        changed = "another mask than the search's" if selection["changed"] else "the search's mask"
        yield (
            "selection by healing",
            f"{changed}, of {len(selection['losses'])} in {len(selection['rounds'])} rounds: "
            f"{selection['tokens']:,} tokens in {selection['seconds']:,.0f} s",
        )
    for name, value in record["evaluation"].get("healed", {}).items():
        if not name.endswith("/stderr"):
            yield f"{name} healed", number(value)


# Small SVG drawings of one cell. The page's light or dark style sets their colours.

SIDE, GAP = 10, 1.5
WIDTH, HEIGHT = 320.0, 110.0


def strip(mask: Mask, numbered: bool = False) -> Markup:
    """The mask as a row of squares; removed units are filled. If `numbered`, every fifth block is numbered.

    Sub-layers are in two rows: attention above, MLPs below.
    """
    n_blocks, rows = mask.n_blocks, mask.n_units // mask.n_blocks
    kept = "".join(_square(*divmod(i, rows)) for i in mask.kept)
    gone = "".join(_square(*divmod(i, rows)) for i in mask.dropped)
    labels = "".join(
        f'<text x="{i * SIDE + SIDE / 2:g}" y="{rows * SIDE + 9}">{i}</text>' for i in range(0, n_blocks, 5)
    )
    height = rows * SIDE + 12 if numbered else rows * SIDE
    units = unit_noun(mask.unit)
    listed = f"{units}s {', '.join(mask.names())} of {mask.n_units} removed"
    words = listed if mask.dropped else f"no {units} removed"
    return Markup(
        f'<svg class="strip{" numbered" if numbered else ""}" viewBox="0 0 {n_blocks * SIDE} {height}" role="img" '
        f'aria-label="{words}"><path class="kept" d="{kept}"/><path class="gone" d="{gone}"/>'
        f"{labels if numbered else ''}</svg>"
    )


def _square(block: int, row: int) -> str:
    side = SIDE - GAP
    return f"M{block * SIDE + GAP / 2:g} {row * SIDE + GAP / 2:g}h{side:g}v{side:g}h-{side:g}z"


def curve(steps: Sequence[tuple[int, float]], last: int) -> Markup:
    """A plot of the best loss so far. `steps` are improvements of that loss; `last` is the number of masks scored."""
    if not steps:
        return Markup("")
    values = [loss for _, loss in steps]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def x(scores: float) -> float:
        return 8 + (WIDTH - 16) * scores / max(last, 1)

    def y(loss: float) -> float:
        return 8 + (HEIGHT - 30) * (high - loss) / span if high > low else (HEIGHT - 14) / 2

    path = f"M{x(steps[0][0]):.1f} {y(steps[0][1]):.1f}"
    path += "".join(f"H{x(scores):.1f}V{y(loss):.1f}" for scores, loss in steps[1:]) + f"H{x(last):.1f}"
    above = min(y(values[-1]) - 5, HEIGHT - 24)
    words = f"Best loss so far: {values[0]:.4f} after {steps[0][0]} masks, {values[-1]:.4f} after {last}"
    dots = "".join(f'<circle cx="{x(scores):.1f}" cy="{y(loss):.1f}" r="2"/>' for scores, loss in steps)
    return Markup(
        f'<svg class="curve" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">'
        f'<path class="axis" d="M8 {HEIGHT - 18:g}H{WIDTH - 8:g}"/><path class="line" d="{path}"/>{dots}'
        f'<text class="start" x="8" y="{HEIGHT - 6:g}">0</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{HEIGHT - 6:g}">{last:,} masks scored</text>'
        f'<text class="end" x="{WIDTH - 8:g}" y="{above:.1f}">{number(values[-1])}</text>'
        "</svg>"
    )


# The statement on differences of 1 to 3 points, judged only where noise cannot decide it.

STEPS = (1.0, 3.0)  # the range in v1, in percentage points


def points(m: StudyData) -> tuple[str, list[str]]:
    """In how many panels (model, k, objective) the best mean accuracy is 1 to 3 points above the worst.

    A panel counts only if it is on one side whatever the noise. Most panels must be on the same side.
    """
    if "acc" not in m.metrics:
        raise NothingToRead("no accuracy was measured")
    metric = m.metrics["acc"]
    known = np.flatnonzero(m.cells["algo"].isin(rivals(m.cells)["algo"]) & metric.of(m.cells).notna())
    cells = m.cells.iloc[known]
    error = standard_error(metric, cells)
    answers = m.answers.take(known).tasks
    if error is None and not answers:
        return OPEN, ["the standard error of an accuracy is not known"]
    found = spans(cells, metric.of(cells).to_numpy(float), error or 0.0, answers)
    if not found:
        return OPEN, ["no two searches can be compared"]
    middle, noise = (float(np.median([getattr(each, name) for each in found])) for name in ("span", "noise"))
    least, largest = min(each.span for each in found), max(each.span for each in found)
    sides = [each.between(*STEPS) for each in found]
    return of(most(sides)), [
        f"highest minus lowest is {least:.1f} to {largest:.1f} points in {count(len(found), 'panel')}, "
        f"median {middle:.1f}",
        f"noise alone exceeds {noise:.1f} points in 5 percent of cases (median over panels)",
        f"whatever the noise, it is between 1 and 3 in {sides.count(True)} and outside in {sides.count(False)}",
        "our reading: most panels decide",
    ]


# Columns, rows and values of the report's tables, and the sort key of each value.

LAST = "~"  # a sort key after those of all numbers and names


@dataclass(frozen=True)
class Value:
    """A cell of a table: its text, its sort key, and the id it links to."""

    text: str | Markup
    key: str
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table. If it is empty, `reason` says why.

    A heading is a text and a flag. The flag is true for a column of numbers.
    """

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[Value]] = ()
    reason: str = ""


# A heading, whether the column has numbers, and a function that returns the column's value in a row.
Column: TypeAlias = tuple[str, bool, Callable[[Any], Value]]
Built: TypeAlias = tuple[list[tuple[str, bool]], list[list[Value]]]  # headings and rows


def built(frame: pd.DataFrame, columns: Sequence[Column]) -> Built:
    """The headings and rows of a table: one row for each row of the frame."""
    rows = [[value(row) for _, _, value in columns] for row in frame.itertuples(index=False)]
    return [(heading, numbers) for heading, numbers, _ in columns], rows


def shown(column: str, form: str | None) -> Callable[[Any], Value]:
    """Return a function that reads a column's value from a row. Without `form`, numbers have about three digits."""

    def value(row: Any) -> Value:
        content = getattr(row, column)
        return word(content) if isinstance(content, str) or content is None else numeric(content, form)

    return value


def word(value: Any) -> Value:
    """A name as a value. If the name is missing, the text is empty."""
    known = isinstance(value, str) and value
    return Value(str(value), str(value)) if known else Value("", LAST)


def numeric(value: Any, form: str | None) -> Value:
    """A number as a value. If the number is missing, the text is a dash."""
    parsed = float(value) if value is not None else np.nan
    if np.isnan(parsed):
        return Value(DASH, LAST)
    if np.isinf(parsed):
        return Value("∞", sorted_by(parsed))
    return Value(number(parsed) if form is None else form.format(parsed), sorted_by(parsed))


def sorted_by(value: float) -> str:
    """The sort key of a number."""
    return LAST if np.isnan(value) else repr(float(value))
