"""Results as one tidy frame: one row a cell, missing and failed ones included. From a folder or an MLflow store."""

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

# How pruning.runs.cell names a folder: what is known of a cell that left no result.
_KEY = re.compile(
    r"(?P<model>.+)-(?P<objective>\w+)-(?P<algo>\w+)-(?P<size>[rk])(?P<number>[\d.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]{8}"
)


def load(results: Path | str, study: str | None = None, only: Only = MappingProxyType({})) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder; `status` is done, failed or missing.

    `results` is a results folder or the URI of an MLflow store (`sqlite:///...`, `http://...`).

    Columns: those of COLUMNS and, for every metric of the evaluation, `dense/<metric>` and
    `pruned/<metric>`. `draw` is the seed of the calibration draw. Of a cell without a result, what its
    name tells is filled in. `only` keeps the cells that have one of the values of each of its columns.
    Raises NothingToRead where no cell is done.
    """
    results = folder(results)
    if study is None:
        keys = sorted(path.parent.name for path in results.glob(f"*/{NAME}"))
    else:
        if study not in (known := study_list.names(results)):
            raise NothingToRead(
                f"no study '{study}' in {results}. Studies there: {', '.join(known) or 'none'}."
            )
        keys = study_list.read_study(results, study)
    frame = _told_apart(pd.DataFrame([_row(results / key) for key in keys]))
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
    """The scored masks of a cell in order: dropped, loss, samples, seconds. Partial scores are left out."""
    lines = (entry.line for entry in read_trace(folder(results) / cell / TRACE))
    return [line for line in lines if line is not None and "of" not in line]


def _row(place: Path) -> dict[str, Any]:
    named = _named(place.name)
    if (result := read_result(place)) is None:
        return {"cell": place.name, "status": "missing", **named}
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
    # Of items, a result's length is that of the longest drawn: an outcome of the draw, and no setting.
    row["length"] = drawn.get("text", drawn).get("length")
    return row | (_measured(result) if result["status"] == "done" else {})


def _data(drawn: Mapping[str, Any]) -> str | None:
    """A short name of calibration data: the source, or what a file or a data set of a hub is called."""
    if "text" in drawn and "items" in drawn:
        return f"{_data(drawn['text'])} + {_data(drawn['items'])}"
    if drawn.get("source") in ("file", "hub") and drawn.get("path"):
        path = Path(drawn["path"])
        return path.stem if drawn["source"] == "file" else path.name
    return drawn.get("source")


def _told_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Data that share a short name but no path go by their paths; the paths themselves are dropped."""
    if "path" not in frame:
        return frame
    paths = frame.groupby("calibration")["path"].transform("nunique")
    alike = frame["path"].notna() & (paths > 1)
    return frame.assign(calibration=frame["calibration"].mask(alike, frame["path"])).drop(columns="path")


def _named(key: str) -> dict[str, Any]:
    """What the name of a cell tells."""
    found = _KEY.fullmatch(key)
    if found is None:
        return {}
    size = {"k": int(found["number"])} if found["size"] == "k" else {"ratio": float(found["number"])}
    return (
        {name: found[name] for name in ("model", "objective", "algo")} | size | {"seed": int(found["seed"])}
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
    """How near the next mask was: how many were compared and tied, the runner-up's distance and its error."""
    nearest = None if margins is None else margins["runner_up"]
    return {
        "compared": None if margins is None else margins["compared"],
        "tied": None if margins is None else margins["tied"],
        "runner_up": None if nearest is None else nearest["difference"],
        "runner_up_error": None if nearest is None else nearest["standard_error"],
    }


def _sized(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in k where only the ratio of an unfinished cell is known, by the size of the same model elsewhere."""
    blocks = frame.dropna(subset="n_blocks").groupby("model")["n_blocks"].first()
    n_blocks = frame["n_blocks"].fillna(frame["model"].map(blocks))
    # round() as in core.mask.block_count, so that a missing cell falls into the panel of its finished neighbours.
    return frame.assign(n_blocks=n_blocks, k=frame["k"].fillna((frame["ratio"] * n_blocks).round()))


def describe(frame: pd.DataFrame, study: str | None, only: Only = MappingProxyType({})) -> str:
    """The title line of every figure: which study, models, seeds and commits it shows, and what is missing."""
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
