"""`result.json`: this module and the `..._record` modules define its keys; its only reader and writer are here.

`docs/results_folder.md` prints the sentence that is beside each key. A test checks that document and modules agree.
Keys marked `NotRequired` are absent from results of older versions and of cells to which they do not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

from pruning.core import atomic_files
from pruning.core.errors import DamagedError
from pruning.core.heal_record import HealRecord
from pruning.core.margins_record import MarginsRecord
from pruning.core.mask import MaskRecord
from pruning.core.provenance import EnvironmentRecord
from pruning.core.recorded import check_inside, check_literal, recorded
from pruning.core.repair_record import RepairRecord
from pruning.core.search_record import SearchRecord
from pruning.core.speed_record import SpeedRecord

NAME = "result.json"
MASK = "mask.json"
SMALLER = "smaller"  # the directory in a cell's folder for its export, if a guided run names no other
LOG = "launch.log"  # the log of a cell, beside its result
TERMS = "terms.json"  # ending of the file with a measurement's terms, one for each window or item

Kind = Literal["dense", "pruned", "uncompensated", "healed"]  # the models that an evaluation measures
MODELS: tuple[Kind, ...] = ("dense", "pruned", "uncompensated", "healed")


class ModelRecord(TypedDict):
    """The model that was searched."""

    name: Annotated[str, "The name that the configuration gives the model."]
    source: Annotated[str, "Where the weights come from: a hub id, a directory, or a pinned package."]
    revision: Annotated[
        str,
        "The hub commit, the digest of a packaged file, or the digest of all bytes of a local model; in results of "
        "older versions, of both ends of its files.",
    ]
    n_blocks: Annotated[int, "Number of blocks."]
    dtype: Annotated[str, "The precision in which it was run."]
    parameters: Annotated[int, "Number of parameters."]
    attention: NotRequired[Annotated[str | None, "The attention kernel that was used."]]
    products: NotRequired[
        Annotated[
            str | None, "`float32` if linear layers multiplied in float32, where that is faster; else null."
        ]
    ]


class CalibrationRecord(TypedDict):
    """The loss that was minimised, and the samples it was measured on."""

    objective: Annotated[str, "The option of `objective`."]
    source: Annotated[str, "Where the samples come from."]
    samples: Annotated[int, "Number of samples: text windows or items."]
    length: Annotated[int, "Tokens of the longest sample."]
    seed: Annotated[int, "The seed of the draw."]
    sha256: Annotated[str, "Digest of the exact tokens; names the file in `calibration/`."]
    loss: Annotated[float, "The loss of the chosen mask."]
    dense_loss: Annotated[float, "The loss of the dense model."]
    standard_error: Annotated[
        float | None, "Standard error of the loss over the samples; null for one sample, or one of a kind."
    ]
    perplexity: NotRequired[Annotated[float, "The exponential of the loss; only for `objective=perplexity`."]]


class EvaluationRecord(TypedDict, total=False):
    """What every evaluation so far has measured on the pruned and on the dense model; most keys are metrics."""

    dense: Annotated[dict[str, float], "Metrics of the dense model; `NAME/stderr` is a standard error."]
    pruned: Annotated[dict[str, float], "Metrics of the pruned model, compensated if the cell asks for that."]
    uncompensated: Annotated[dict[str, float], "Metrics of the same mask without compensation."]
    healed: Annotated[
        dict[str, float], "Metrics after healing; of `heal.selection.mask`, if candidates were healed."
    ]
    data: Annotated[dict[str, str], "Digest of the data of each metric."]
    how: Annotated[dict[str, dict[str, Any]], "How each metric was measured."]
    records: Annotated[
        dict[str, dict[str, str]], "The file of each measurement, relative to the results folder."
    ]
    settings: Annotated[dict[str, dict[str, Any]], "The evaluation settings that each metric comes from."]
    files: Annotated[dict[str, str | None], "Digest of each local file that was read."]
    overlap: Annotated[dict[str, int], "How many pieces of the data are also in the calibration data."]
    environment: Annotated[EnvironmentRecord, "Of the last evaluation that was added to a finished cell."]
    speed: Annotated[SpeedRecord, "Speed and size of both models; only with `eval=speed`."]


class ErrorRecord(TypedDict):
    """Why a cell failed."""

    type: Annotated[str, "The exception's class."]
    message: Annotated[str, "Its text."]
    log: Annotated[str, "The file with the traceback."]


class Failure(TypedDict):
    """A failed cell, as a command reports it; a `FailedResult` has these keys too."""

    cell: str
    error: ErrorRecord


class FailedResult(TypedDict):
    """The result of a cell that failed; the same command tries the cell again."""

    cell: Annotated[str, "The cell's key, which is also the name of its folder."]
    status: Annotated[Literal["failed"], "`failed`."]
    error: Annotated[ErrorRecord, "What went wrong."]
    config: Annotated[dict[str, Any], "The configuration, with options and classes by name."]
    environment: Annotated[EnvironmentRecord, "Versions, commit, device and times."]


class DoneResult(TypedDict):
    """The result of a finished cell."""

    cell: Annotated[str, "The cell's key, which is also the name of its folder."]
    status: Annotated[Literal["done"], "`done`."]
    error: Annotated[None, "null."]
    model: Annotated[ModelRecord, "The model that was searched."]
    mask: Annotated[MaskRecord, "The mask that the search chose."]
    calibration: Annotated[CalibrationRecord, "The loss that was minimised, and on which samples."]
    search: Annotated[SearchRecord, "What the search did and what it cost."]
    margins: NotRequired[Annotated[MarginsRecord, "How sure the choice is."]]
    compensation: NotRequired[
        Annotated[dict[str, float], "The factor of each removed unit; only with `compensation=magnitude`."]
    ]
    repair: NotRequired[Annotated[RepairRecord, "The maps that stand in for removed runs."]]
    heal: NotRequired[Annotated[HealRecord, "How the pruned model was trained; only with `heal`."]]
    evaluation: Annotated[EvaluationRecord, "What was measured on the mask."]
    config: Annotated[dict[str, Any], "The configuration, with options and classes by name."]
    environment: Annotated[EnvironmentRecord, "Versions, commit, device and times."]


Result = DoneResult | FailedResult


def read_result(folder: Path) -> Result | None:
    """The result in a cell's folder; None if there is none. Results of older versions are converted to today's form.

    Raises DamagedError if the file does not hold a result, InputError if its configuration is not literal.
    """
    path = folder / NAME
    try:
        data: Any = atomic_files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(data, dict) or not {"cell", "status", "config"} <= data.keys():
        raise DamagedError(f"{path} is damaged: it holds no result. Move it away and run the cell again.")
    data["config"] = recorded(data["config"])
    check_literal(data["config"], f"{path} is not to be trusted: ")
    try:
        measured = [
            p for paths in data.get("evaluation", {}).get("records", {}).values() for p in paths.values()
        ]
        healings = [data["heal"]["folder"]] if "folder" in data.get("heal", {}) else []
        settings = data.get("evaluation", {}).get("settings")
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged ({error!r}): move it away and run the cell again.") from error
    for named in (*measured, *healings):
        check_inside(named, f"{path} is not to be trusted: it")
    if settings is not None:
        data["evaluation"]["settings"] = recorded(settings)
    return cast(Result, data)


def read_done(folder: Path) -> DoneResult:
    """The result of a finished cell. Raises DamagedError if the folder holds none."""
    result = read_result(folder)
    if result is None or result["status"] != "done":
        raise DamagedError(f"{folder} holds no finished result: run the cell again.")
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write a result into a cell's folder atomically. Raises ValueError for NaN and infinity."""
    atomic_files.write_record(folder / NAME, cast(Mapping[str, Any], result))
