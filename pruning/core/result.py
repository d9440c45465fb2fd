"""`result.json`: this module defines each of its keys and holds its only reader and its only writer.

`docs/results_folder.md` prints the sentence that is beside each key here. A test checks that document and module
agree. Keys marked `NotRequired` are absent from results of older versions and of cells to which they do not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

from pruning.core import atomic_files
from pruning.core.errors import DamagedError
from pruning.core.heal_record import HealRecord
from pruning.core.mask import MaskRecord
from pruning.core.provenance import EnvironmentRecord
from pruning.core.recorded import recorded

NAME = "result.json"
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


class BudgetRecord(TypedDict):
    """What had to be removed, in parts of the cost of all units."""

    cost: Annotated[str, "What a unit costs: `parameters`, or `latency` as measured on this device."]
    asked: Annotated[float, "The fraction that was asked for."]
    removed: Annotated[float, "The fraction that is removed."]
    costs: Annotated[list[int], "The cost of each unit, in ten-thousandths of all."]
    least: Annotated[int, "The least that a mask may remove, in the same parts."]
    most: Annotated[int, "The most that it may remove."]


class SearchRecord(TypedDict):
    """What the search did and what it cost."""

    algo: Annotated[str, "The option of `algo`."]
    k: Annotated[int, "Number of units removed: blocks or sub-layers."]
    ratio: Annotated[float, "Fraction of the units removed."]
    budget: NotRequired[Annotated[BudgetRecord, "Only if units have costs, as sub-layers have."]]
    stopped: Annotated[str, "Why the search ended."]
    evaluations_asked: Annotated[
        float, "Losses that the search asked for; a loss over half of the samples counts as 0.5."
    ]
    evaluations_paid: Annotated[float, "Of these, the ones that this cell computed itself."]
    evaluations_shared: NotRequired[Annotated[float, "Of these, the ones that other cells had computed."]]
    seconds: Annotated[float, "Wall time of the search, all its runs together."]
    block_forwards: NotRequired[Annotated[float, "Forward passes of one block over all samples."]]
    block_forwards_alone: NotRequired[
        Annotated[float, "Block forwards if each mask had been evaluated by itself, without shared prefixes."]
    ]
    block_tokens: NotRequired[Annotated[int, "Tokens that went through a block, summed over blocks."]]
    forward_seconds: NotRequired[Annotated[float, "Seconds spent in forward passes."]]
    peak_memory: NotRequired[Annotated[int, "The most memory in use, in bytes."]]


class ComparisonRecord(TypedDict):
    """A mask compared with a better one (of lower loss), by paired differences over samples."""

    dropped: Annotated[list[int] | list[str], "What this mask removes."]
    difference: Annotated[float, "Mean difference of the two losses; positive if this mask is worse."]
    standard_error: Annotated[
        float | None, "Standard error of that mean; null for one sample, or one of a kind."
    ]
    samples: Annotated[int, "Number of samples that both masks were scored on."]
    p_corrected: NotRequired[
        Annotated[float, "One-sided p-value by Student's t, corrected by Holm for the number compared."]
    ]


class DecisionRecord(TypedDict):
    """One intermediate choice of the search, such as the choice of one round of greedy."""

    best: Annotated[int, "How many masks were kept."]
    of: Annotated[int, "How many masks there were to choose from."]
    chosen: Annotated[list[int] | list[str], "The last mask that was kept."]
    skipped: NotRequired[
        Annotated[int, "How many more masks there were, which a lazy search or a bound left unscored."]
    ]
    next: Annotated[ComparisonRecord, "The best mask that was not kept, compared with `chosen`."]


class NearTiesRecord(TypedDict):
    """Choices between masks whose losses differ by less than the rounding of the model's precision."""

    settled: Annotated[int, "How many choices were made by losses in float32."]
    changed: Annotated[int, "How many of them would have been different without float32."]
    open: Annotated[
        int, "How many choices float32 could not settle, so that another processor may choose otherwise."
    ]
    rounding: Annotated[float | None, "How far rounding moves a loss, as measured; null without float32."]


class MarginsRecord(TypedDict):
    """How sure the choice of the mask is."""

    compared: Annotated[int, "How many other masks of the same size the search scored."]
    runner_up: Annotated[ComparisonRecord | None, "The best of them; null if there is none."]
    tied: Annotated[int, "How many of them are not significantly worse at 0.05."]
    ties: Annotated[list[list[int] | list[str]], "What is removed by up to 100 of these."]
    decisions: NotRequired[Annotated[list[DecisionRecord], "The last 32 choices on the way."]]
    near_ties: NotRequired[Annotated[NearTiesRecord, "Only for a model in half precision."]]


class SpreadRecord(TypedDict):
    """A median over repeats with its quartiles."""

    median: Annotated[float, "The median over repeats."]
    low: Annotated[float, "The lower quartile."]
    high: Annotated[float, "The upper quartile."]


class TimingRecord(TypedDict):
    """How fast one model generated."""

    prefill_per_second: Annotated[SpreadRecord, "Tokens of the prompt per second."]
    decode_per_second: Annotated[SpreadRecord, "Tokens per second after the first new one."]
    first_token_seconds: Annotated[SpreadRecord, "Seconds to the first new token."]
    peak_memory: Annotated[int | None, "The most memory in use, in bytes; null if it cannot be measured."]


class RatioRecord(TypedDict):
    """How many times faster the pruned model is than the dense model; above 1 means faster."""

    prefill: Annotated[float, "Ratio of the medians of `prefill_per_second`."]
    decode: Annotated[float, "Ratio of the medians of `decode_per_second`."]
    first_token: Annotated[float, "Ratio of the medians of `first_token_seconds`, dense to pruned."]


class SpeedRun(TypedDict):
    """The speed of both models for one shape of input."""

    batch: Annotated[int, "Number of sequences."]
    prompt: Annotated[int, "Tokens of each prompt."]
    new_tokens: Annotated[int, "Tokens that were generated for each."]
    dense: Annotated[TimingRecord, "The dense model."]
    pruned: Annotated[TimingRecord, "The pruned model."]
    ratio: Annotated[RatioRecord, "How many times better the pruned model is."]


class SizeRecord(TypedDict):
    """How large a model is."""

    parameters: Annotated[int, "Number of parameters."]
    bytes: Annotated[int, "Bytes of the weights."]


class SpeedRecord(TypedDict):
    """What `eval=speed` measures."""

    device: Annotated[str, "The processor or the GPUs."]
    repeats: Annotated[int, "Measured repeats of each shape."]
    warmup: Annotated[int, "Repeats before them that are not measured."]
    dtype: Annotated[str, "The precision."]
    sizes: Annotated[dict[str, SizeRecord], "Size of the `dense` and of the `pruned` model."]
    runs: Annotated[list[SpeedRun], "One entry per batch size and prompt length."]


class EvaluationRecord(TypedDict, total=False):
    """What every evaluation so far has measured on the pruned and on the dense model; most keys are metrics."""

    dense: Annotated[dict[str, float], "Metrics of the dense model; `NAME/stderr` is a standard error."]
    pruned: Annotated[dict[str, float], "Metrics of the pruned model, compensated if the cell asks for that."]
    uncompensated: Annotated[dict[str, float], "Metrics of the same mask without compensation."]
    healed: Annotated[dict[str, float], "Metrics of the pruned model after healing."]
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


class RepairRun(TypedDict):
    """A run of removed units, and the map that stands in for it."""

    removed: Annotated[list[str], "The removed sub-layers, in the notation of `mask.dropped`."]
    folded: Annotated[
        str | None, "The sub-layer into whose weights the map is folded; null if nothing comes before."
    ]
    form: NotRequired[Annotated[str, "`linear` for a matrix, `diagonal` for one factor per dimension."]]
    reason: NotRequired[Annotated[str, "Why a diagonal map was folded although a linear one was asked for."]]
    ridge: NotRequired[Annotated[float, "The ridge that was best on the samples that were held out."]]
    error_before: NotRequired[
        Annotated[
            float, "Squared error without a map on the held-out samples, as a share of what the map predicts."
        ]
    ]
    error_after: NotRequired[Annotated[float, "The same with a map that was fitted on the other samples."]]


class RepairRecord(TypedDict):
    """How removed runs were repaired; only with `compensation=linear` and `compensation=diagonal`."""

    form: Annotated[str, "What was asked for: `linear` or `diagonal`."]
    samples: Annotated[int, "Number of calibration samples."]
    tokens: Annotated[int, "Their tokens."]
    sequential: Annotated[bool, "Whether each map was measured on the model that is repaired before it."]
    runs: Annotated[list[RepairRun], "The removed runs, in order."]
    sha256: Annotated[str, "Digest of the maps in `repair.safetensors`."]


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

    Raises DamagedError if the file does not hold a result.
    """
    path = folder / NAME
    try:
        data: Any = atomic_files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(data, dict) or not {"cell", "status", "config"} <= data.keys():
        raise DamagedError(f"{path} is damaged: it holds no result. Move it away and run the cell again.")
    data["config"] = recorded(data["config"])
    settings = data.get("evaluation", {}).get("settings")
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
    atomic_files.write_json(folder / NAME, cast(Mapping[str, Any], result))
