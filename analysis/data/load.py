"""Load results into one tidy frame: one row per cell, missing and failed ones included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pruning.core import study_list
from pruning.core.errors import DamagedError, first_line
from pruning.core.result import NAME
from pruning.core.trace import NAME as TRACE
from pruning.core.trace import TraceEntry, TraceLine, read_trace

from ..stats.removal import NO_COMPENSATION, bare, column
from .cell_filter import Only, select, words
from .errors import NothingToRead
from .labels import labelled, with_compensation, with_units
from .mlflow_store import folder
from .rows import row_of
from .same_data import OTHER, on_same_data

COLUMNS = (
    "cell",
    "status",
    "model",
    "n_blocks",
    "unit",  # block, sublayer, attention or mlp
    "n_units",
    "objective",
    "calibration",
    "samples",
    "length",
    "draw",
    "algo",
    "k",  # with a budget, as many whole blocks as the removed share
    "ratio",
    "cost",  # what a ratio is a share of; None if units are counted
    "budget",
    "compensation",  # what stands in for removed units: none, magnitude, linear or diagonal
    "seed",
    "protect_first",
    "protect_last",
    "dropped",
    "loss",
    "dense_loss",
    "standard_error",
    "compared",
    "tied",
    "runner_up",
    "runner_up_error",
    "asked",
    "paid",
    "shared",
    "seconds",
    "block_forwards",
    "block_forwards_alone",
    "block_tokens",
    "forward_seconds",
    "peak_memory",
    "commit",
    "damage",  # what is wrong with the cell's result.json, if anything is
)


LISTED = 12  # more values than these are not listed in a title


def load(results: Path | str, study: str | None = None, only: Only = MappingProxyType({})) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder. `status` is done, failed, missing or damaged.

    `results` is a results folder or the URI of an MLflow store (`sqlite:///...`, `http://...`).

    The columns are those of COLUMNS and, for every metric of the evaluation, `dense/<metric>` and
    `pruned/<metric>`. `draw` is the seed of the calibration draw. If a cell has no result, its row is filled
    from the cell's name. Values on other held-out data than those of most cells are left out (see `same_data`).
    `dropped` are unit numbers, as in `Mask`. `model` names the unit, the budget and
    the compensation, unless k whole blocks are removed without any (see `labels`). `only` selects cells by the values
    of columns (see `cell_filter`).
    Raises NothingToRead if the study does not exist or no cell is done.
    """
    results = folder(results)
    keys = cells_of(results, study)
    frame = _distinct_names(pd.DataFrame([row_of(results / key) for key in keys]))
    if frame.empty or not (frame["status"] == "done").any():
        raise NothingToRead(f"no finished cell in {results}: {_cure(frame)}.")
    frame = _sized(_filled(frame))
    try:
        frame = select(frame, only)
    except ValueError as error:
        raise NothingToRead(f"--only: {error}.") from error
    if not (frame["status"] == "done").any():
        raise NothingToRead(f"no finished cell of {'; '.join(words(only))} in {results}.")
    return labelled(on_same_data(frame))


def _cure(frame: pd.DataFrame) -> str:
    """What to do if no cell is finished."""
    damages = [] if frame.empty else list(frame.get("damage", pd.Series(dtype=object)).dropna())
    return damages[0] if damages else "run `python launch.py` first"


def cells_of(results: Path, study: str | None) -> list[str]:
    """The cells of a study, or all cells that have a result. Raises NothingToRead if the study cannot be read."""
    if not results.is_dir():
        raise NothingToRead(f"there is no results folder {results}: check the path of --results.")
    if study is None:
        return sorted(path.parent.name for path in results.glob(f"*/{NAME}"))
    if study not in (known := study_list.names(results)):
        raise NothingToRead(f"no study '{study}' in {results}. Its studies: {', '.join(known) or 'none'}.")
    try:
        keys = study_list.read_study(results, study)
    except DamagedError as error:
        cure = "Leave out --study to draw all cells of the folder"
        raise NothingToRead(f"{first_line(error)}. {cure}.") from error
    if not keys:
        raise NothingToRead(
            f"the study '{study}' in {results} lists no cells: start it with `python launch.py`."
        )
    return keys


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished cells."""
    return frame[frame["status"] == "done"].reset_index(drop=True)


def trace(results: Path | str, cell: str) -> list[TraceLine]:
    """The scored masks of a cell in order: dropped, loss, samples, seconds. Partial scores are omitted."""
    return _whole(_lines(read_trace(folder(results) / cell / TRACE)))


@dataclass(frozen=True)
class Journals:
    """The scored masks of each finished cell, and what is wrong with the files that are not whole.

    `lines` also has the partial scores of races, which only costs need.
    """

    lines: dict[str, list[TraceLine]]
    damages: list[str]

    @cached_property
    def traces(self) -> dict[str, list[TraceLine]]:
        """The scores over all samples."""
        return {cell: _whole(lines) for cell, lines in self.lines.items()}


def journals(results: Path | str, finished: pd.DataFrame) -> Journals:
    """Read the journals of finished cells. Of a damaged journal, the scores that can be read are kept."""
    lines, damages = dict[str, list[TraceLine]](), []
    for cell, dropped in zip(finished["cell"], finished["dropped"], strict=True):
        path = folder(results) / str(cell) / TRACE
        try:
            entries = list(read_trace(path))
            lines[cell] = _lines(entries)
            reason = _lacking(path, entries, _whole(lines[cell]), dropped)
            lines[cell] = _of_usual_length(lines[cell])
        except OSError as error:
            lines[cell], reason = [], f"cannot be read ({error.strerror})"
        if reason:
            damages.append(f"{cell}/{TRACE} {reason}")
    return Journals(lines, damages)


def _lines(entries: Iterable[TraceEntry]) -> list[TraceLine]:
    return [entry.line for entry in entries if entry.line is not None]


def _whole(lines: Iterable[TraceLine]) -> list[TraceLine]:
    return [line for line in lines if "of" not in line]


def _of_usual_length(lines: list[TraceLine]) -> list[TraceLine]:
    """The lines without whole scores that have another number of samples than most of the cell's."""
    counts = Counter(len(line["samples"]) for line in _whole(lines))
    usual = counts.most_common(1)[0][0] if counts else 0
    return [line for line in lines if "of" in line or len(line["samples"]) == usual]


def _lacking(path: Path, entries: list[TraceEntry], scores: list[TraceLine], dropped: tuple[int, ...]) -> str:
    """What is wrong with the journal of a finished cell; empty if nothing is."""
    if not path.exists():
        return "is missing"
    if damaged := [entry.number for entry in entries if entry.line is None]:
        return f"is damaged in line {damaged[0]}"
    if path.stat().st_size > (entries[-1].end if entries else 0):
        return "is cut off in its last line"
    if not any(tuple(score["dropped"]) == dropped for score in scores):
        return "is cut off: it has no score of the mask that the cell found"
    if len({len(score["samples"]) for score in scores}) > 1:
        return "is damaged: its scores have different numbers of samples"
    return ""


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all of COLUMNS, and with units and compensation of cells without a readable result."""
    frame = frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)])
    return with_compensation(with_units(frame))


def _distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Name data by their paths if different paths share a short name. The column `path` is dropped."""
    if "path" not in frame:
        return frame
    paths = frame.groupby("calibration")["path"].transform("nunique")
    alike = frame["path"].notna() & (paths > 1)
    return frame.assign(calibration=frame["calibration"].mask(alike, frame["path"])).drop(columns="path")


def _sized(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in k of unfinished cells from their ratio and from the block count of finished cells of the same model."""
    blocks = frame.dropna(subset="n_blocks").groupby("model")["n_blocks"].first()
    n_blocks = frame["n_blocks"].fillna(frame["model"].map(blocks))
    # round() as in core.mask.block_count, so that a missing cell appears in the same panel as finished ones.
    return frame.assign(n_blocks=n_blocks, k=frame["k"].fillna((frame["ratio"] * n_blocks).round()))


def describe(frame: pd.DataFrame, study: str | None, only: Only = MappingProxyType({})) -> str:
    """The title line of every figure: study, models, seeds, commits, and how many cells are missing or failed."""
    finished = frame[frame["status"] == "done"]
    parts = [
        f"study {study or 'all'}",
        *words(only),
        _listed("model", finished["model"].map(bare)),
        _listed("seed", finished["seed"]),
    ]
    if set(units := column(finished, "unit", "block")) != {"block"}:
        parts.insert(-1, _listed("unit", pd.Series(units)))
    if set(found := column(finished, "compensation", NO_COMPENSATION)) != {NO_COMPENSATION}:
        parts.insert(-1, _listed("compensation", pd.Series(found)))
    parts.append(_listed("commit", finished["commit"].fillna("unknown")))
    if lacking := len(frame) - len(finished):
        names = "missing, failed or damaged" if (frame["status"] == "damaged").any() else "missing or failed"
        parts.append(f"{lacking} of {len(frame)} cells {names}")
    if others := sum(text != "" for text in column(finished, OTHER, "")):
        parts.append(f"{others} of {len(finished)} cells measured on other held-out data, which is left out")
    return " · ".join(parts)


def _listed(name: str, values: pd.Series[Any]) -> str:
    distinct = sorted({str(value).removesuffix(".0") for value in values})
    if len(distinct) > LISTED:
        numbers = [int(value) for value in distinct if value.lstrip("-").isdigit()]
        if len(numbers) == len(distinct):
            return f"{len(distinct)} {name}s between {min(numbers)} and {max(numbers)}"
        return f"{len(distinct)} {name}s: {', '.join(distinct[:3])}, \N{HORIZONTAL ELLIPSIS}"
    return f"{name}{'s' if len(distinct) > 1 else ''} {', '.join(distinct)}"
