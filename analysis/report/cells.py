"""The report's entries, one per cell. An entry has the mask, the progress of the search, margins and cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from pruning.core.estimate import plus_minus
from pruning.core.margins_record import MarginsRecord
from pruning.core.mask import Mask
from pruning.core.metric_names import LABELS, error_of, metrics_among
from pruning.core.result import LOG, DoneResult
from pruning.core.search_record import BudgetRecord
from pruning.core.trace import TraceLine
from pruning.core.units import bytes_text

from ..figures.style import number, ordered
from ..stats import crossed
from ..stats.frames import groups as groups_of
from ..stats.removal import bare, mask_of, removed
from . import heal_figure
from .continuations import ContinuationTable, continuations
from .study_data import StudyData
from .svg import curve, strip

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
        heal=heal_figure.figure(m.results / cell, record["heal"]) if "heal" in record else None,
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
    yield from heal_figure.facts(record)
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
