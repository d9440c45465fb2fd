"""Load results into one tidy frame: one row per cell, missing and failed ones included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pruning.core import study_list
from pruning.core.result import NAME, DoneResult, MarginsRecord, read_result
from pruning.core.trace import NAME as TRACE
from pruning.core.trace import TraceLine, read_trace

from .cell_filter import Only, select, words
from .errors import NothingToRead
from .mlflow_store import folder

COLUMNS = (
    "cell",
    "status",
    "model",
    "n_blocks",
    "objective",
    "calibration",
    "samples",
    "length",
    "draw",
    "algo",
    "k",
    "ratio",
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
)

COST = ("block_forwards", "block_forwards_alone", "block_tokens", "forward_seconds", "peak_memory")

# The form of the folder names that pruning.runs.cell gives. If a cell left no result, only its name is known.
_KEY = re.compile(
    r"(?P<model>.+)-(?P<objective>\w+)-(?P<algo>\w+)-(?P<size>[rk])(?P<number>[\d.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]{8}"
)


def load(results: Path | str, study: str | None = None, only: Only = MappingProxyType({})) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder. `status` is done, failed or missing.

    `results` is a results folder or the URI of an MLflow store (`sqlite:///...`, `http://...`).

    The columns are those of COLUMNS and, for every metric of the evaluation, `dense/<metric>` and
    `pruned/<metric>`. `draw` is the seed of the calibration draw. If a cell has no result, its row is filled
    from the cell's name. `only` selects cells by the values of columns (see `cell_filter`).
    Raises NothingToRead if the study does not exist or no cell is done.
    """
    results = folder(results)
    if study is None:
        keys = sorted(path.parent.name for path in results.glob(f"*/{NAME}"))
    else:
        if study not in (known := study_list.names(results)):
            raise NothingToRead(
                f"no study '{study}' in {results}. Its studies: {', '.join(known) or 'none'}."
            )
        keys = study_list.read_study(results, study)
    frame = _distinct_names(pd.DataFrame([_row(results / key) for key in keys]))
    if frame.empty or not (frame["status"] == "done").any():
        raise NothingToRead(f"no finished cell in {results}: run `python launch.py` first.")
    frame = _sized(frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)]))
    try:
        frame = select(frame, only)
    except ValueError as error:
        raise NothingToRead(f"--only: {error}.") from error
    if not (frame["status"] == "done").any():
        raise NothingToRead(f"no finished cell of {'; '.join(words(only))} in {results}.")
    return frame


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """The finished cells."""
    return frame[frame["status"] == "done"].reset_index(drop=True)


def trace(results: Path | str, cell: str) -> list[TraceLine]:
    """The scored masks of a cell in order: dropped, loss, samples, seconds. Partial scores are omitted."""
    lines = (entry.line for entry in read_trace(folder(results) / cell / TRACE))
    return [line for line in lines if line is not None and "of" not in line]


def _row(cell_folder: Path) -> dict[str, Any]:
    named = _named(cell_folder.name)
    if (result := read_result(cell_folder)) is None:
        return {"cell": cell_folder.name, "status": "missing", **named}
    config = result["config"]
    row = {"cell": result["cell"], "status": result["status"], **named, "seed": config["seed"]}
    row |= {f"protect_{end}": config.get("protect", {}).get(end, 0) for end in ("first", "last")}
    drawn = config.get("calibration", {})
    row |= {
        "calibration": _data(drawn),
        "path": drawn.get("path"),
        "samples": drawn.get("samples"),
        "draw": drawn.get("seed"),
    }
    # For items, the recorded length is the length of the longest drawn item. That is not a setting, so read the
    # configuration instead.
    row["length"] = drawn.get("text", drawn).get("length")
    return row | (_measured(result) if result["status"] == "done" else {})


def _data(drawn: Mapping[str, Any]) -> str | None:
    """A short name of calibration data: the name of its source, of its file, or of its data set on the hub."""
    if "text" in drawn and "items" in drawn:
        return f"{_data(drawn['text'])} + {_data(drawn['items'])}"
    if drawn.get("source") in ("file", "hub") and drawn.get("path"):
        path = Path(drawn["path"])
        return path.stem if drawn["source"] == "file" else path.name
    return drawn.get("source")


def _distinct_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Name data by their paths if different paths share a short name. The column `path` is dropped."""
    if "path" not in frame:
        return frame
    paths = frame.groupby("calibration")["path"].transform("nunique")
    alike = frame["path"].notna() & (paths > 1)
    return frame.assign(calibration=frame["calibration"].mask(alike, frame["path"])).drop(columns="path")


def _named(key: str) -> dict[str, Any]:
    """Model, objective, algo, k or ratio, and seed from the name of a cell; empty if the name has another form."""
    match = _KEY.fullmatch(key)
    if match is None:
        return {}
    size = {"k": int(match["number"])} if match["size"] == "k" else {"ratio": float(match["number"])}
    return (
        {name: match[name] for name in ("model", "objective", "algo")} | size | {"seed": int(match["seed"])}
    )


def _measured(result: DoneResult) -> dict[str, Any]:
    calibration, search = result["calibration"], result["search"]
    metrics = {
        f"{which}/{name}": value
        for which in ("dense", "pruned")
        for name, value in result["evaluation"][which].items()
    }
    return {
        "model": result["model"]["name"],
        "n_blocks": result["mask"]["n_blocks"],
        "objective": calibration["objective"],
        "samples": calibration["samples"],
        "draw": calibration["seed"],
        "algo": search["algo"],
        "k": search["k"],
        "ratio": result["config"].get("ratio") or search["ratio"],
        "dropped": tuple(result["mask"]["dropped"]),
        "loss": calibration["loss"],
        "dense_loss": calibration["dense_loss"],
        "standard_error": calibration["standard_error"],
        **_margins(result.get("margins")),
        "asked": search["evaluations_asked"],
        "paid": search["evaluations_paid"],
        "shared": search.get("evaluations_shared"),
        "seconds": search["seconds"],
        **{name: search.get(name) for name in COST},
        "commit": result["environment"]["commit"],
        **metrics,
    }


def _margins(margins: MarginsRecord | None) -> dict[str, Any]:
    """Numbers of masks compared and tied with the chosen mask; difference of the runner-up and its standard error."""
    nearest = None if margins is None else margins["runner_up"]
    return {
        "compared": None if margins is None else margins["compared"],
        "tied": None if margins is None else margins["tied"],
        "runner_up": None if nearest is None else nearest["difference"],
        "runner_up_error": None if nearest is None else nearest["standard_error"],
    }


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
        _listed("model", finished["model"]),
        _listed("seed", finished["seed"]),
    ]
    parts.append(_listed("commit", finished["commit"].fillna("unknown")))
    if lacking := len(frame) - len(finished):
        parts.append(f"{lacking} of {len(frame)} cells missing or failed")
    return " · ".join(parts)


def _listed(name: str, values: pd.Series[Any]) -> str:
    distinct = sorted({str(value).removesuffix(".0") for value in values})
    return f"{name}{'s' if len(distinct) > 1 else ''} {', '.join(distinct)}"
