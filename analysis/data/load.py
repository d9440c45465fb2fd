"""Load results into one tidy frame: one row per cell, missing and failed ones included."""

from __future__ import annotations

import logging
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from pruning.core import study_list
from pruning.core.errors import DamagedError, first_line
from pruning.core.result import NAME

from .cell_filter import Only, select, words
from .errors import NothingToRead
from .labels import labelled, with_compensation, with_units
from .mlflow_store import folder
from .rows import row_of
from .same_data import on_same_data

log = logging.getLogger(__name__)

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
    "healing",  # the settings of the last healing of the cell's mask; None without one
    "damage",  # what is wrong with the cell's result.json, if anything is
)


def load(results: Path | str, study: str | None = None, only: Only = MappingProxyType({})) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder. `status` is done, failed, missing or damaged.

    `results` is a results folder or the URI of an MLflow store (`sqlite:///...`, `http://...`).

    The columns are those of COLUMNS and, for every metric of the evaluation, `dense/<metric>` and
    `pruned/<metric>`; if a cell was healed, also `healed/<metric>`. `draw` is the seed of the calibration draw. If a
    cell has no result, its row is filled from the cell's name. Values on other held-out data than those of most cells
    are left out (see `same_data`). `dropped` are unit numbers, as in `Mask`. `model` names the unit, the budget and
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


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all of COLUMNS, and with units and compensation of cells without a readable result."""
    frame = frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)])
    return with_compensation(with_units(frame))


def _distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Name data by their paths, and models by their weights, if different ones share a short name.

    The columns `path` and `revision` are dropped.
    """
    if "revision" in frame:
        several = frame.groupby("model")["revision"].transform("nunique") > 1
        if shared := sorted(frame.loc[several, "model"].unique()):
            log.warning(
                "models of other weights have one name (%s): names show the digests", ", ".join(shared)
            )
        named = frame["model"] + "@" + frame["revision"].map(lambda one: str(one)[:6])
        frame = frame.assign(model=frame["model"].mask(several, named)).drop(columns="revision")
    if "path" not in frame:
        return frame
    paths = frame.groupby("calibration")["path"].transform("nunique")
    alike = frame["path"].notna() & (paths > 1)
    return frame.assign(calibration=frame["calibration"].mask(alike, frame["path"])).drop(columns="path")


def _sized(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in k of unfinished cells from their ratio and from the block count of finished cells of the same model."""
    blocks = frame.dropna(subset="n_blocks").groupby("model")["n_blocks"].first()
    n_blocks = frame["n_blocks"].fillna(frame["model"].map(blocks))
    # round() as in core.spaces.block_count, so that a missing cell appears in the same panel as finished ones.
    return frame.assign(n_blocks=n_blocks, k=frame["k"].fillna((frame["ratio"] * n_blocks).round()))
