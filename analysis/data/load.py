"""Load results into one frame with a row per cell, including missing and failed cells."""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pruning.core import records
from pruning.core.errors import DamagedError, InputError, first_line
from pruning.core.mask import KINDS, BudgetRecord, Mask, Removal
from pruning.core.records import (
    LABELS,
    NAME,
    DoneResult,
    Result,
    main_of,
    metrics_among,
    read_result,
    without_error,
)

from ..stats.grid import NO_COMPENSATION, UNKNOWN, UNKNOWN_COMPENSATION, column, label
from .archive import NothingToRead

log = logging.getLogger(__name__)

# `unit` is block, sublayer, attention or mlp. If units are counted, `cost` and `budget` are None. Otherwise `ratio`
# is a share of the `cost`, and `k` is that share in whole blocks. `draw` is the seed of the calibration draw.
# `dropped` has unit numbers, as in `Mask`. `compensation` is what replaces removed units: none, magnitude
# or linear. `healing` has the settings with which the cell's mask was last healed. `damage` says what is wrong
# with the cell's result.json.
COLUMNS = (
    "cell", "status", "model", "n_blocks", "unit", "n_units", "objective", "calibration", "samples", "length", "draw",
    "algo", "k", "ratio", "cost", "budget", "compensation", "seed", "protect_first", "protect_last", "dropped",
    "loss", "dense_loss", "standard_error", "tied", "asked", "paid", "shared", "seconds", "block_forwards",
    "block_forwards_alone", "peak_memory", "commit", "healing", "damage",
)  # fmt: skip
Only = Mapping[str, Sequence[str]]


def load(results: Path, study: str | None = None, only: Only = MappingProxyType({})) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder. `status` is done, failed, missing or damaged.

    `only` selects cells by the values of columns. The columns are COLUMNS and, for every metric, `dense/<metric>` and
    `pruned/<metric>`; if a cell was healed, also `healed/<metric>`. If a cell has no result, its row is filled from
    the cell's name. `model` also names the unit, the budget and the compensation, unless k whole blocks are removed
    without compensation (`stats.grid`). Raises NothingToRead if the study does not exist or no cell is done.
    """
    frame = _distinct_names(pd.DataFrame([row_of(results / key) for key in cells_of(results, study)]))
    if frame.empty or not (frame["status"] == "done").any():
        damages = [] if frame.empty else list(frame.get("damage", pd.Series(dtype=object)).dropna())
        cure = damages[0] if damages else "run `depth-pruning grid` first"
        raise NothingToRead(f"no finished cell in {results}: {cure}.")
    frame = frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)])
    frame = _filled(frame, ["unit", "cost"], [UNKNOWN, None])
    frame = _with_sizes(_filled(frame, ["compensation"], [UNKNOWN_COMPENSATION]))
    try:
        frame = _select(frame, only)
    except ValueError as error:
        raise NothingToRead(f"--only: {error}.") from error
    if not (frame["status"] == "done").any():
        asked = " and ".join(f"{name}={','.join(kept)}" for name, kept in only.items())
        raise NothingToRead(f"no finished cell in {results} has {asked}: choose other values of --only.")
    return _labelled(on_same_data(frame))


def cells_of(results: Path, study: str | None) -> list[str]:
    """The cells of a study, or all cells that have a result. Raises NothingToRead if the study cannot be read."""
    if not results.is_dir():
        raise NothingToRead(f"there is no results folder {results}: check the path of --results.")
    if study is None:
        return sorted(path.parent.name for path in results.glob(f"*/{NAME}"))
    if study not in (known := records.names(results)):
        raise NothingToRead(f"no study '{study}' in {results}. Its studies: {', '.join(known) or 'none'}.")
    try:
        keys = records.read_study(results, study)
    except DamagedError as error:
        cure = "Leave out --study to draw all cells of the folder"
        raise NothingToRead(f"{first_line(error)}. {cure}.") from error
    if not keys:
        raise NothingToRead(
            f"the study '{study}' in {results} lists no cells: start it with `depth-pruning grid`."
        )
    return keys


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished cells."""
    return frame[frame["status"] == "done"].reset_index(drop=True)


# One row of the frame: what a cell's `result.json` says, or why the file cannot be used.

NUMBERS = ("n_blocks", "k", "loss", "dense_loss", "standard_error", "asked", "paid", "seconds")
NONE = "NoCompensation"  # a class of a module that is not imported here, because it imports torch

# Matches the names of cells' folders (`Cell.key`). If a cell has no result, only this name is known.
_KEY = re.compile(
    r"(?P<model>.+)-(?P<objective>\w+)-(?P<algo>\w+)-(?P<size>[rk])(?P<number>[\d.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]{8}"
)


def row_of(cell_folder: Path) -> dict[str, Any]:
    """The row of a cell. `status` is done, failed, missing or damaged; if it is damaged, `damage` says why."""
    key, path = cell_folder.name, cell_folder / NAME
    named: dict[str, Any] = {}
    if match := _KEY.fullmatch(key):
        size = {"k": int(match["number"])} if match["size"] == "k" else {"ratio": float(match["number"])}
        named = {name: match[name] for name in ("model", "objective", "algo")} | size
        named |= {"seed": int(match["seed"])}
    try:
        result = read_result(cell_folder)
        if result is None:
            return {"cell": key, "status": "missing", **named}
        if result["cell"] != key:
            raise DamagedError(f"{path} holds the result of another cell, {result['cell']}.")
        return _checked(result, named)
    except DamagedError as error:
        damage = first_line(error)
    except OSError as error:
        damage = f"{path} cannot be read ({error.strerror})"
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        lacking = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        damage = first_line(f"{path} is damaged: {lacking}.")
    # Paths are shown relative to the results folder, since an archive's results folder is temporary.
    damage = damage.replace(f"{cell_folder.parent}/", "")
    return {"cell": key, "status": "damaged", **named, "damage": damage}


def _checked(result: Result, named: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a result. Raises KeyError, TypeError or ValueError if one of its values is missing or unusable."""
    if result["status"] not in ("done", "failed"):
        raise ValueError(f"its status is {result['status']!r}")
    config = result["config"]
    removal = Removal(*(config[name] for name in ("ratio", "k", "unit", "budget")))
    if removal.unit not in KINDS:
        raise ValueError(f"its unit is {removal.unit!r}")
    repair = str((config.get("compensation") or {}).get("class", NONE))
    drawn = config.get("calibration", {})
    row: dict[str, Any] = {
        "cell": result["cell"],
        "status": result["status"],
        **named,
        "seed": config["seed"],
        "revision": result["model"].get("revision") if result["status"] == "done" else None,
        **{f"protect_{end}": config.get("protect", {}).get(end, 0) for end in ("first", "last")},
        "unit": removal.unit,
        "cost": None if removal.counted else removal.budget,
        "compensation": NO_COMPENSATION if repair == NONE else repair.lower(),
        "calibration": _data(drawn),
        "path": _data(drawn, whole=True),
        "samples": drawn.get("samples"),
        "draw": drawn.get("seed"),
        # For items, the recorded length is the length of the longest drawn item. That is not a setting, so the
        # configuration is read instead.
        "length": drawn.get("text", drawn).get("length"),
    }
    if result["status"] == "failed":
        if not {"type", "message"} <= result["error"].keys():
            raise ValueError("it does not say why the cell failed")
        return row
    row |= _measured(result, removal)
    may_lack = {"standard_error"} if row["standard_error"] is None else set()  # unknown for one sample
    for name in {*NUMBERS, *(name for name in row if "/" in name)} - may_lack:
        if row[name] is None or isinstance(row[name], bool) or not isinstance(row[name], int | float):
            raise TypeError(f"{name} is {row[name]!r} and not a number")
    return row


def _measured(result: DoneResult, removal: Removal) -> dict[str, Any]:
    calibration, search = result["calibration"], result["search"]
    evaluation: Mapping[str, Any] = {**result["evaluation"]}
    n_blocks, mask = result["mask"]["n_blocks"], Mask.from_json(result["mask"])
    ratio, budget = result["config"]["ratio"] or search["ratio"], _budget(result, mask, removal)
    heal = result.get("heal")
    # Healing can select a mask that is not this cell's.
    own = heal is not None and not heal.get("selection", {}).get("changed")
    return {
        "model": result["model"]["name"],
        "n_blocks": n_blocks,
        "n_units": mask.n_units,
        "objective": calibration["objective"],
        "samples": calibration["samples"],
        "draw": calibration["seed"],
        "algo": search["algo"],
        # With a budget, the masks of one problem remove different numbers of units, so such a number cannot be k.
        "k": search["k"] if budget is None else round(ratio * n_blocks),
        "ratio": ratio,
        "dropped": mask.dropped,
        "budget": budget,
        "loss": calibration["loss"],
        "dense_loss": calibration["dense_loss"],
        "standard_error": calibration["standard_error"],
        "tied": result["margins"]["tied"],
        "asked": search["evaluations_asked"],
        "paid": search["evaluations_paid"],
        "shared": search["evaluations_shared"],
        "seconds": search["seconds"],
        **{name: search[name] for name in ("block_forwards", "block_forwards_alone", "peak_memory")},
        "commit": result["environment"]["commit"],
        "data": evaluation.get("data"),
        "healing": heal["settings"] if heal is not None and own else None,
        **{
            f"{which}/{name}": value
            for which in ("dense", "pruned", "healed")
            for name, value in evaluation.get(which, {}).items()
        },
    }


def _budget(result: DoneResult, mask: Mask, removal: Removal) -> BudgetRecord | None:
    """A cell's budget; None if the cell removes k units. Raises ValueError if mask and settings disagree."""
    if mask.unit != removal.mask_unit:
        raise ValueError(f"its mask is over units ({mask.unit}) that are not those of unit={removal.unit}")
    if removal.counted:
        return None
    budget = result["search"]["budget"]
    if len(budget["costs"]) != mask.n_units or not budget["least"] <= budget["most"]:
        raise ValueError("its budget is not one of its units")
    return budget


def _parts(drawn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of the parts of combined calibration data; empty for other data. A part can have parts, too."""
    nested = (part for part in drawn.values() if isinstance(part, Mapping))
    return [part for part in nested if "source" in part or _parts(part)]


def _data(drawn: Mapping[str, Any], whole: bool = False) -> str | None:
    """The name of calibration data: the source or, for a file or hub data set, a short name (its path if `whole`)."""
    if parts := _parts(drawn):
        return " + ".join(str(_data(part, whole)) for part in parts)
    source, path = drawn.get("source"), drawn.get("path")
    if source not in ("file", "hub") or not path or whole:
        return path if whole and path else source
    return Path(path).stem if source == "file" else Path(path).name


# Fill in values of cells without a readable result, and give different models and data different names.


def _distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Name calibration data by path if different data share a short name; add revisions to models that share one.

    The columns `path` and `revision` are dropped.
    """
    if "revision" not in frame:  # no cell has a result
        return frame
    several = frame.groupby("model")["revision"].transform("nunique") > 1
    if shared := sorted(frame.loc[several, "model"].unique()):
        log.warning("models of other weights have one name (%s): names show the digests", ", ".join(shared))
    named = frame["model"] + "@" + frame["revision"].map(lambda one: str(one)[:6])
    alike = frame.groupby("calibration")["path"].transform("nunique") > 1
    return frame.assign(
        model=frame["model"].mask(several, named), calibration=frame["calibration"].mask(alike, frame["path"])
    ).drop(columns=["revision", "path"])


def _filled(frame: pd.DataFrame, names: list[str], unknown: list[Any]) -> pd.DataFrame:
    """Fill columns `names` of cells without a usable result: with values that all others share, else `unknown`."""
    lacking = frame[names[0]].isna()
    known = frame.loc[~lacking, names].drop_duplicates()
    values = known.iloc[0].tolist() if len(known) == 1 else unknown
    columns = {
        name: frame[name].astype(object).where(~lacking, value)
        for name, value in zip(names, values, strict=True)
    }
    return frame.assign(**columns)


def _with_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in k of unfinished cells: the ratio times the model's number of blocks, if a cell records that number."""
    blocks = frame.dropna(subset="n_blocks").groupby("model")["n_blocks"].first()
    n_blocks = frame["n_blocks"].fillna(frame["model"].map(blocks))
    # Rounded as in pruning.core.mask, so that a missing cell appears in the same panel as finished ones.
    return frame.assign(n_blocks=n_blocks, k=frame["k"].fillna((frame["ratio"] * n_blocks).round()))


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with labels in `model`. If several ratios have the same k, labels name the ratio, too.

    `smollm2` stands for k removed blocks, `smollm2 (sublayer)` for a share of the parameters that is removed
    as sub-layers, and `smollm2 (linear)` for removed blocks that linear maps replace.
    """
    repairs = column(frame, "compensation", NO_COMPENSATION)
    kinds = list(
        zip(frame["model"], frame["unit"], column(frame, "cost", None), repairs, frame["k"], strict=True)
    )
    ratios: dict[Any, set[float]] = {}
    for kind, ratio in zip(kinds, frame["ratio"], strict=True):
        ratios.setdefault(kind, set()).add(ratio)
    names = []
    for kind, ratio in zip(kinds, frame["ratio"], strict=True):
        model, unit, cost, repair, _ = kind
        more = [repair] if repair != NO_COMPENSATION else []
        more += [f"{100 * ratio:g} %"] if cost is not None and len(ratios[kind]) > 1 else []
        names.append(label(model, unit, cost, more) if isinstance(model, str) else model)
    return frame.assign(model=names)


# This column names the metrics of a cell that were measured on other data than in most cells.
OTHER = "other_data"


def on_same_data(frame: pd.DataFrame) -> pd.DataFrame:
    """For each metric of each model, drop values that were measured on other data than those of most cells.

    If a cell is evaluated again on other data, the new value counts. The column `data`, which maps metrics to
    digests of their data, is replaced by `other_data`, which names the metrics of omitted values. Cells without
    digests keep their values.
    """
    values = [(str(c), main_of(without_error(str(c).partition("/")[2]))) for c in frame if "/" in str(c)]
    left: dict[Hashable, list[str]] = {}
    kept = frame.drop(columns="data").astype({name: float for name, _ in values}).copy()
    for _, cells in frame.dropna(subset="data").groupby("model"):
        for metric in sorted({metric for data in cells["data"] for metric in data}):
            digests = {row: data[metric] for row, data in cells["data"].items() if metric in data}
            counts = Counter(digests.values())
            usual = max(counts, key=lambda digest: (counts[digest], digest))
            others = [row for row, digest in digests.items() if digest != usual]
            kept.loc[others, [name for name, of in values if of == metric]] = float("nan")
            for row in others:
                left.setdefault(row, []).append(metric)
    texts = {row: ", ".join(names) for row, names in left.items()}
    return kept.assign(**{OTHER: pd.Series(texts, dtype=object)})


# Select some cells of a study: `--only objective=perplexity,divergence --only k=3`.

FILTERED = (
    *("model", "objective", "calibration", "samples", "length", "draw"),
    *("algo", "k", "ratio", "unit", "compensation", "seed"),
)


def filter_column(text: str) -> tuple[str, list[str]]:
    """Parse `objective=perplexity,margin` into a column and the values to keep. Used as an argparse type."""
    name, equals, values = text.partition("=")
    kept = [value.strip() for value in values.split(",") if value.strip()]
    if name not in FILTERED or not equals or not kept:
        known = ", ".join(FILTERED)
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a filter: give COLUMN=VALUE,VALUE; the columns are {known}"
        )
    return name, kept


def _select(frame: pd.DataFrame, only: Only) -> pd.DataFrame:
    """The cells that have, in each column of `only`, one of the values listed for this column.

    If an unfinished cell's value in a column is unknown, the cell is kept.
    Raises ValueError if a listed value occurs in no cell.
    """

    def text(value: Any) -> str | None:
        """A value as a user writes it: 3 and not 3.0; None if the value is missing."""
        return None if pd.isna(value) else str(value).removesuffix(".0")

    for name, kept in only.items():
        values = frame[name].map(text)
        if unknown := sorted({*kept} - {*values}):
            known = ", ".join(sorted({*values.dropna()}))
            raise ValueError(f"no cell has {name}={','.join(unknown)}; the values are: {known}")
        unknown_yet = values.isna() & (frame["status"] != "done")
        frame = frame[values.isin(kept) | unknown_yet].reset_index(drop=True)
    return frame


# Choose the metric that a figure shows: one metric by name, or the mean over the metrics of a kind.
#
# A metric is named `ppl/<corpus>` or `acc/<task>`. Standard errors, `<metric>/stderr`, are not metrics.

COMMON = 0.9  # a metric is part of the mean if at least this share of the measured cells has it
WORDS = {kind: LABELS[kind] for kind in ("ppl", "acc")}


@dataclass(frozen=True)
class Metric:
    """One or several recorded metrics of a kind (`ppl` or `acc`), and their arithmetic mean.

    The paper's tables also average perplexities arithmetically. If a cell lacks one of the metrics, its mean
    is NaN: an average over fewer corpora or tasks could not be compared with other cells' averages.
    """

    kind: str
    names: tuple[str, ...]
    others: tuple[str, ...] = ()  # metrics measured in too few cells to be part of the mean

    @property
    def label(self) -> str:
        """The name for axes and titles."""
        sets = "corpora" if self.kind == "ppl" else "tasks"
        of_all = f" of {len(self.names) + len(self.others)}" if self.others else ""
        if len(self.names) == 1:
            only = f", 1{of_all} {sets}" if of_all else ""
            return f"{WORDS[self.kind]} ({self.sets}{only})"
        return f"mean {WORDS[self.kind]} ({len(self.names)}{of_all} {sets})"

    @property
    def sets(self) -> str:
        """The names of the corpora or tasks, as text for notes."""
        names = (name.partition("/")[2].replace("_", " ") for name in self.names)
        return ", ".join(names).replace("heldout", "held-out data")

    def of(self, frame: pd.DataFrame, which: str = "pruned") -> pd.Series[Any]:
        """One value per cell (cells,), for its pruned, dense or healed model (`which`); accuracies are in percent."""
        columns = frame.reindex(columns=[f"{which}/{name}" for name in self.names]).astype(float)
        return columns.mean(axis=1, skipna=False) * (100 if self.kind == "acc" else 1)


def names(frame: pd.DataFrame, kind: str) -> tuple[str, ...]:
    """All metrics of a kind that some cell has, in alphabetical order. Recorded means are excluded."""
    columns = (str(c).removeprefix("pruned/") for c in frame if str(c).startswith(f"pruned/{kind}/"))
    single = (c for c in metrics_among(columns) if c != f"{kind}/mean")
    return tuple(sorted(c for c in single if frame[f"pruned/{c}"].notna().any()))


def measured(frame: pd.DataFrame) -> dict[str, Metric]:
    """The default metric of each kind that was measured."""
    return {kind: choose(frame, kind) for kind in WORDS if names(frame, kind)}


def choose(frame: pd.DataFrame, kind: str, name: str | None = None) -> Metric:
    """The metric `name`, with or without its prefix; by default, the mean over metrics that nearly all cells have.

    If no metric is in nearly all cells, the mean is over all metrics. If no cell has every metric of the mean,
    the most frequent metric is chosen instead. Raises NothingToRead if the metric was not measured.
    """
    known = names(frame, kind)
    if not known:
        raise NothingToRead(f"no {WORDS[kind]} was measured in this study.")
    if name is None:
        has = frame[[f"pruned/{n}" for n in known]].dropna(how="all").notna().set_axis(known, axis="columns")
        shares = dict(zip(known, has.mean(), strict=True))
        common = tuple(n for n in known if shares[n] >= COMMON) or known
        if not has[[*common]].all(axis="columns").any():
            common = (max(known, key=lambda n: shares[n]),)
        return Metric(kind, common, tuple(n for n in known if n not in common))
    full = name if name.startswith(f"{kind}/") else f"{kind}/{name}"
    if full not in known:
        raise NothingToRead(f"no {WORDS[kind]} '{name}' in this study. Measured: {', '.join(known)}.")
    return Metric(kind, (full,))
