"""The report's entries for cells, with drawings of their masks, and the configuration of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from pruning.core.errors import PruningError
from pruning.core.mask import Mask, unit_noun
from pruning.core.records import (
    CLASS,
    LABELS,
    METRIC,
    MODELS,
    OPTION,
    SHOWN,
    DoneResult,
    Kind,
    MarginsRecord,
    error_of,
    leaves,
    metrics_among,
    read_continuations,
)
from pruning.core.scoring import plus_minus
from pruning.core.units import bytes_text

from ..figures.style import number, ordered
from ..stats.grid import bare, mask_of, removed
from ..stats.grid import groups as groups_of
from .study_data import StudyData


@dataclass(frozen=True)
class CellEntry:
    """What the page shows for one cell. `anchor` is the id of the cell's HTML element."""

    anchor: str
    cell: str
    status: str
    name: str
    error: str = ""
    short: str = ""
    mask: Markup | None = None
    continuations: Sequence[Mapping[str, str]] = ()
    facts: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class CellGroup:
    """The cells of one model, size and objective. `dense` gives the dense model's metrics as text."""

    heading: str
    anchor: str
    dense: str
    entries: list[CellEntry]


def anchor(cell: str) -> str:
    """The id of a cell's element in the page."""
    return f"cell-{cell}"


def groups(m: StudyData) -> Iterator[CellGroup]:
    """All cells, including missing and failed ones, grouped by model, number of removed blocks and objective."""
    values = {
        kind: dict(zip(m.frame["cell"], metric.of(m.frame), strict=True))
        for kind, metric in m.metrics.items()
    }
    panels = groups_of(m.frame, ["model", "k", "objective"])
    for place, ((model, k, objective), cells) in enumerate(panels, start=1):
        order = {algo: i for i, algo in enumerate(ordered(cells["algo"].dropna()))}
        rows = cells.assign(rank=cells["algo"].map(order))
        rows = rows.sort_values(["rank", "calibration", "draw", "seed"])
        size = "" if pd.isna(k) else f", {removed(cells.iloc[0])}"
        known = [m.records[cell] for cell in map(str, rows["cell"]) if cell in m.records]
        dense = [_measured(one["evaluation"]["dense"]) for one in known if one["status"] == "done"]
        yield CellGroup(
            heading=f"{bare(str(model))}{size}, pruned for {objective}",
            anchor=f"group-{place}",
            dense=f"With nothing removed: {dense[0]}." if dense and dense[0] else "",
            entries=[_entry(m, row, values) for _, row in rows.iterrows()],
        )


def _entry(m: StudyData, row: pd.Series[Any], values: Mapping[str, Mapping[str, float]]) -> CellEntry:
    cell, record = str(row["cell"]), m.records.get(str(row["cell"]))
    common: dict[str, Any] = {
        "anchor": anchor(cell),
        "cell": cell,
        "status": row["status"],
        "name": _name(row),
    }
    if row["status"] == "damaged":
        return CellEntry(**common, error=str(row["damage"]))
    if record is None:
        message = "This cell has no result: it was not run, or it was stopped before it finished."
        return CellEntry(**common, error=message)
    if record["status"] != "done":
        return CellEntry(**common, error="{type}: {message}".format(**record["error"]))
    mask = mask_of(row)
    short = (f"{LABELS[k]} {number(of[cell])}{' %' if k == 'acc' else ''}" for k, of in values.items())
    return CellEntry(
        **common,
        short=", ".join(short),
        mask=strip(mask),
        continuations=continuations(m.asked.results, record),
        facts=[*_facts(record, row, mask)],
    )


def _name(row: pd.Series[Any]) -> str:
    """A name that is unique in the cell's group: search, data, number and length of samples, seed."""
    data = "" if pd.isna(row["calibration"]) else f", {row['calibration']}"
    size = "" if pd.isna(row["samples"]) else f" {int(row['samples'])}"
    size += "" if pd.isna(row["length"]) else f" x {int(row['length'])}"
    seed = "" if pd.isna(row["seed"]) else f", seed {int(row['seed'])}"
    return f"{row['algo']}{data}{size}{seed}"


def _measured(metrics: Mapping[str, float]) -> str:
    """A text with all metrics, and with their standard errors if they were recorded."""
    texts = []
    for name in metrics_among(metrics):
        digits, error = 3 if abs(metrics[name]) < 10 else 2, metrics.get(error_of(name))
        spread = "" if error is None else f" ± {error:,.{digits}f}"
        texts.append(f"{name} {metrics[name]:,.{digits}f}{spread}")
    return "; ".join(texts)


def _facts(record: DoneResult, row: pd.Series[Any], mask: Mask) -> Iterator[tuple[str, str]]:
    search = record["search"]
    yield f"{'blocks' if mask.unit == 'block' else 'sub-layers'} removed", ", ".join(mask.names()) or "none"
    if (budget := search.get("budget")) is not None:
        asked = f"{100 * budget['asked']:g} % asked for"
        yield "removed", f"{mask}, {100 * budget['removed']:.1f} % of the {budget['cost']} ({asked})"
    error = plus_minus(record["calibration"]["standard_error"])
    dense = f"nothing removed {row['dense_loss']:.4f}"
    yield "calibration loss", f"{row['loss']:.4f} {error} ({dense})"
    yield from _margins(record["margins"])
    yield "stopped", search["stopped"]
    spent = [f"{search['evaluations_asked']:,.0f} scores asked, {search['evaluations_paid']:,.0f} paid"]
    for name, words in (("shared", "shared"), ("seconds", "s"), ("block_forwards", "block forwards")):
        spent += [f"{row[name]:,.0f} {words}"] if not pd.isna(row[name]) else []
    spent += [f"{bytes_text(int(row['peak_memory']))} at peak"] if not pd.isna(row["peak_memory"]) else []
    yield "cost", ", ".join(spent)
    if measured := _measured(record["evaluation"]["pruned"]):
        yield "held out", measured
    yield from facts(record)


def _margins(margins: MarginsRecord) -> Iterator[tuple[str, str]]:
    """Facts about the runner-up mask and about masks that tie with the chosen one."""
    if (nearest := margins["runner_up"]) is None:
        yield "runner-up", "none: no other mask of this size was scored"
    else:
        distance = f"{nearest['difference']:+.4f} {plus_minus(nearest['standard_error'])}"
        yield "runner-up", f"{', '.join(map(str, nearest['dropped']))} at {distance}"
        counts = f"{margins['tied']} of {margins['compared']}"
        yield "ties", f"{counts} compared masks are not significantly worse"


def facts(record: Any) -> Iterator[tuple[str, str]]:
    """Facts about a healed cell: the cost of healing, and the metrics after it. Without healing, no facts."""
    if (heal := record.get("heal")) is None:
        return
    cost = f"{heal['tokens']:,} tokens in {heal['seconds']:,.0f} s"
    yield "healing", f"{heal['settings']['class'].lower()}, {cost}"
    if measured := _measured(record["evaluation"].get("healed", {})):
        yield "held out, healed", measured


def strip(mask: Mask) -> Markup:
    """The mask as squares in SVG; removed units are filled. For sub-layers, attention is above the MLP."""
    n_blocks, rows = mask.n_blocks, mask.n_units // mask.n_blocks
    side, gap = 10, 1.5
    kept = "".join(f"M{gap / 2:g} {row * side + side / 2:g}h{n_blocks * side}" for row in range(rows))
    places = (divmod(unit, rows) for unit in mask.dropped)
    gone = "".join(f"M{b * side + gap / 2:g} {row * side + side / 2:g}h{side - gap:g}" for b, row in places)
    units = unit_noun(mask.unit)
    listed = f"{units}s {', '.join(mask.names())} of {mask.n_units} removed"
    words = listed if mask.dropped else f"no {units} removed"
    return Markup(
        f'<svg class="strip" viewBox="0 0 {n_blocks * side} {rows * side}" role="img" aria-label="{words}">'
        f'<path class="kept" d="{kept}"/><path class="gone" d="{gone}"/></svg>'
    )


# What the dense and the pruned models generated from the same prompts.

WORDS: dict[Kind, str] = {
    "dense": "nothing removed",
    "pruned": "pruned",
    "uncompensated": "without compensation",
    "healed": "healed",
}


def continuations(results: Path, record: DoneResult) -> list[dict[str, str]]:
    """The first prompts of a cell, with each model's greedy continuation; empty if none can be read."""
    paths = record["evaluation"].get("records", {}).get(METRIC, {})
    columns: dict[str, list[str]] = {}
    for which in (kind for kind in MODELS if kind in paths):
        with suppress(PruningError, OSError):
            if (kept := read_continuations(results / paths[which])) is not None:
                columns |= {"prompt": kept["prompts"], WORDS[which]: kept["texts"]}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)][:SHOWN]


# The configuration of a study: the settings that all its cells share, and the settings that vary between cells.

# The page does not show these settings, which determine only where and how a study runs.
LEFT_OUT = ("paths.", "tracker", "launcher", "study")


Counts = dict[str, Counter[str]]  # for each setting, the number of cells with each of its values


def settings(m: StudyData) -> tuple[Counts, Counts]:
    """Settings that vary between cells, and shared settings, both in the order of the configuration. A
    setting that only some cells have, such as an option of one search, is shared if its value never varies.
    """
    every: Counts = {}
    for record in m.records.values():
        for name, value in leaves(record["config"]):
            if not name.startswith(LEFT_OUT) and not name.endswith(f".{OPTION}"):
                # The class of a config group is listed under the name of the group, as in `algo = Beam`.
                counts = every.setdefault(name.removesuffix(f".{CLASS}"), Counter())
                counts["none" if value is None else str(value)] += 1
    varied = {name: values for name, values in every.items() if len(values) > 1}
    return varied, {name: values for name, values in every.items() if name not in varied}
