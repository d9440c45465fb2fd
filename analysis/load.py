"""Results of a folder as one tidy frame: one row a cell, missing and failed ones included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = (
    "cell",
    "status",
    "model",
    "n_blocks",
    "objective",
    "calibration",
    "algo",
    "k",
    "seed",
    "dropped",
    "loss",
    "dense_loss",
    "standard_error",
    "asked",
    "paid",
    "seconds",
    "commit",
)


class NothingToRead(SystemExit):
    """There is no finished cell to draw; ends the command with a sentence."""


def load(results: Path, study: str | None = None) -> pd.DataFrame:
    """One row for each cell of a study, or of the whole folder; `status` is done, failed or missing.

    Columns: those of COLUMNS and, for every metric of the evaluation, `dense/<metric>` and
    `pruned/<metric>`. Raises NothingToRead where no cell is done.
    """
    if study is None:
        keys = sorted(path.parent.name for path in results.glob("*/result.json"))
    else:
        path = results / "studies" / f"{study}.json"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
            raise NothingToRead(f"no study '{study}' in {results}. Studies there: {known}.")
        keys = json.loads(path.read_text(encoding="utf-8"))["cells"]
    frame = pd.DataFrame([_row(results / key) for key in keys])
    if frame.empty or not (frame["status"] == "done").any():
        raise NothingToRead(f"no finished cell in {results}: run `python launch.py` first.")
    return frame.reindex(columns=[*COLUMNS, *(c for c in frame if c not in COLUMNS)])


def _row(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.exists():
        return {"cell": folder.name, "status": "missing"}
    result = json.loads(path.read_text(encoding="utf-8"))
    row = {"cell": result["cell"], "status": result["status"], "seed": result["config"]["seed"]}
    return row | _measured(result) if result["status"] == "done" else row


def _measured(result: Mapping[str, Any]) -> dict[str, Any]:
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
        "calibration": calibration["source"],
        "algo": search["algo"],
        "k": search["k"],
        "dropped": tuple(result["mask"]["dropped"]),
        "loss": calibration["loss"],
        "dense_loss": calibration["dense_loss"],
        "standard_error": calibration["standard_error"],
        "asked": search["evaluations_asked"],
        "paid": search["evaluations_paid"],
        "seconds": search["seconds"],
        "commit": result["environment"]["commit"],
        **metrics,
    }


def describe(frame: pd.DataFrame, study: str | None) -> str:
    """The title line of every figure: which study, models, seeds and commits it shows, and what is missing."""
    done = frame[frame["status"] == "done"]
    parts = [f"study {study or 'all'}", _listed("model", done["model"]), _listed("seed", done["seed"])]
    parts.append(_listed("commit", done["commit"].fillna("unknown")))
    if lacking := len(frame) - len(done):
        parts.append(f"{lacking} of {len(frame)} cells missing or failed")
    return " · ".join(parts)


def _listed(name: str, values: pd.Series[Any]) -> str:
    distinct = sorted({str(value).removesuffix(".0") for value in values})
    return f"{name}{'s' if len(distinct) > 1 else ''} {', '.join(distinct)}"
