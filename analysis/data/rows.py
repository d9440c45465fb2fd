"""One row of the frame of results: what a cell's `result.json` says, or why the file cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pruning.core.errors import DamagedError, InputError, first_line
from pruning.core.margins_record import MarginsRecord
from pruning.core.mask import Mask
from pruning.core.result import NAME, DoneResult, Result, read_result

from .budgets import budget_of, compensation_of, removal_of

NUMBERS = ("n_blocks", "k", "loss", "dense_loss", "standard_error", "asked", "paid", "seconds")
MEASURED: tuple[Literal["dense", "pruned", "healed"], ...] = ("dense", "pruned", "healed")
COST = ("block_forwards", "block_forwards_alone", "block_tokens", "forward_seconds", "peak_memory")

# The form of the folder names that pruning.runs.cell gives. If a cell left no result, only its name is known.
_KEY = re.compile(
    r"(?P<model>.+)-(?P<objective>\w+)-(?P<algo>\w+)-(?P<size>[rk])(?P<number>[\d.e+-]+)-s(?P<seed>-?\d+)-[0-9a-f]{8}"
)


def row_of(cell_folder: Path) -> dict[str, Any]:
    """The row of a cell. `status` is done, failed, missing, or damaged; then `damage` says what is wrong."""
    key = cell_folder.name
    named = _named(key)
    try:
        result = result_of(cell_folder)
        return {"cell": key, "status": "missing", **named} if result is None else _row(result, named)
    except DamagedError as error:
        # Paths are relative: if the study comes from an archive, its folder is temporary.
        damage = first_line(error).replace(f"{cell_folder.parent}/", "")
        return {"cell": key, "status": "damaged", **named, "damage": damage}


def result_of(cell_folder: Path) -> Result | None:
    """The result in a cell's folder, checked as far as the analysis uses it; None if there is none.

    Raises DamagedError, whose text names the file, if the file cannot be read or lacks something.
    """
    path = cell_folder / NAME
    try:
        result = read_result(cell_folder)
        if result is None:
            return None
        if result["cell"] != cell_folder.name:
            raise DamagedError(f"{path} holds the result of another cell, {result['cell']}.")
        _check(result)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}).") from error
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        lacking = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise DamagedError(f"{path} is damaged: {lacking}.") from error
    return result


def _check(result: Result) -> None:
    """Raise KeyError, TypeError or ValueError if the row of a result cannot be built or holds unusable values."""
    if result["status"] not in ("done", "failed"):
        raise ValueError(f"its status is {result['status']!r}")
    row = _row(result, {})
    if result["status"] == "failed":
        if not {"type", "message"} <= result["error"].keys():
            raise ValueError("it does not say why the cell failed")
        return
    Mask.from_json(result["mask"])
    may_lack = {"standard_error"} if row["standard_error"] is None else set()  # a single sample has none
    for name in {*NUMBERS, *(name for name in row if "/" in name)} - may_lack:
        if row[name] is None or isinstance(row[name], bool) or not isinstance(row[name], int | float):
            raise TypeError(f"{name} is {row[name]!r} and not a number")


def _row(result: Result, named: Mapping[str, Any]) -> dict[str, Any]:
    config = result["config"]
    row = {"cell": result["cell"], "status": result["status"], **named, "seed": config["seed"]}
    row["revision"] = result["model"].get("revision") if result["status"] == "done" else None
    row |= {f"protect_{end}": config.get("protect", {}).get(end, 0) for end in ("first", "last")}
    row |= removal_of(config) | {"compensation": compensation_of(config)}
    drawn = config.get("calibration", {})
    row |= {
        "calibration": _data(drawn),
        "path": _long_name(drawn),
        "samples": drawn.get("samples"),
        "draw": drawn.get("seed"),
    }
    # For items, the recorded length is the length of the longest drawn item. That is not a setting, so read the
    # configuration instead.
    row["length"] = drawn.get("text", drawn).get("length")
    return row | (_measured(result) if result["status"] == "done" else {})


def _data(drawn: Mapping[str, Any]) -> str | None:
    """A short name of calibration data: the name of its source, of its file, or of its data set on the hub."""
    if parts := _parts(drawn):
        return " + ".join(str(_data(part)) for part in parts)
    if drawn.get("source") in ("file", "hub") and drawn.get("path"):
        path = Path(drawn["path"])
        return path.stem if drawn["source"] == "file" else path.name
    return drawn.get("source")


def _parts(drawn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a calibration that is made of several; a part can have parts, too."""
    nested = (part for part in drawn.values() if isinstance(part, Mapping))
    return [part for part in nested if "source" in part or _parts(part)]


def _long_name(drawn: Mapping[str, Any]) -> str | None:
    """As `_data`, with paths instead of short names; None if the data have no path."""
    if parts := _parts(drawn):
        names = [_long_name(part) for part in parts]
        known = zip(names, parts, strict=True)
        return " + ".join(name or str(_data(part)) for name, part in known) if any(names) else None
    return drawn.get("path")


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
    n_blocks, mask = result["mask"]["n_blocks"], Mask.from_json(result["mask"])
    ratio, budget = result["config"].get("ratio") or search["ratio"], budget_of(result, mask)
    metrics = {
        f"{which}/{name}": value
        for which in MEASURED
        for name, value in result["evaluation"].get(which, {}).items()
    }
    return {
        "model": result["model"]["name"],
        "n_blocks": n_blocks,
        "n_units": mask.n_units,
        "objective": calibration["objective"],
        "samples": calibration["samples"],
        "draw": calibration["seed"],
        "algo": search["algo"],
        # With a budget, masks of one problem differ in their number of units, so that it cannot be their size.
        "k": search["k"] if budget is None else round(ratio * n_blocks),
        "ratio": ratio,
        "dropped": mask.dropped,
        "budget": budget,
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
        "data": result["evaluation"].get("data"),
        "healing": _healing(result),
        **metrics,
    }


def _healing(result: DoneResult) -> dict[str, Any] | None:
    """The settings of a healing of the search's mask. A healing may select another mask, which is not that cell's."""
    heal = result.get("heal")
    return None if heal is None or heal.get("selection", {}).get("changed") else heal["settings"]


def _margins(margins: MarginsRecord | None) -> dict[str, Any]:
    """Numbers of masks compared and tied with the chosen mask; difference of the runner-up and its standard error."""
    nearest = None if margins is None else margins["runner_up"]
    return {
        "compared": None if margins is None else margins["compared"],
        "tied": None if margins is None else margins["tied"],
        "runner_up": None if nearest is None else nearest["difference"],
        "runner_up_error": None if nearest is None else nearest["standard_error"],
    }
