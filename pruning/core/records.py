"""`result.json` and the records beside it: their keys, and their only readers and writers.

`docs/results_folder.md` says what each key means; a test checks that the page lists the keys of these types. Keys
marked `NotRequired` are absent from cells to which they do not apply.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import os
import pkgutil
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NotRequired, TypedDict, cast

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import MaskRecord, SearchRecord
from pruning.core.processor import instruction_set

NAME = "result.json"
MASK = "mask.json"
SMALLER = "smaller"  # the directory in a cell's folder for its export, if a guided run names no other
LOG = "launch.log"  # the log of a cell, beside its result
TERMS = "terms.json"  # ending of the file with a measurement's terms, one for each window or item

Kind = Literal["dense", "pruned", "uncompensated", "healed"]  # the models that an evaluation measures
MODELS: tuple[Kind, ...] = ("dense", "pruned", "uncompensated", "healed")


class ModelRecord(TypedDict):
    """The model that was searched."""

    name: str
    source: str
    revision: str
    n_blocks: int
    dtype: str
    parameters: int
    attention: NotRequired[str | None]
    products: NotRequired[str | None]


class CalibrationRecord(TypedDict):
    """The loss that was minimised, and the samples on which it was measured."""

    objective: str
    source: str
    samples: int
    length: int
    seed: int
    sha256: str
    loss: float
    dense_loss: float
    standard_error: float | None
    perplexity: NotRequired[float]


class EvaluationRecord(TypedDict, total=False):
    """A cell's evaluation results so far: a mapping for each model and each kind of detail, most keyed by metric."""

    dense: dict[str, float]
    pruned: dict[str, float]
    uncompensated: dict[str, float]
    healed: dict[str, float]
    data: dict[str, str]
    how: dict[str, dict[str, Any]]
    records: dict[str, dict[str, str]]
    settings: dict[str, dict[str, Any]]
    files: dict[str, str | None]
    overlap: dict[str, int]
    environment: EnvironmentRecord
    speed: SpeedRecord


class ErrorRecord(TypedDict):
    """Why a cell failed."""

    type: str
    message: str
    log: str


class Failure(TypedDict):
    """A failed cell, as a command reports it; a `FailedResult` has these keys too."""

    cell: str
    error: ErrorRecord


class FailedResult(TypedDict):
    """The result of a cell that failed; if the command is repeated, the cell is tried again."""

    cell: str
    status: Literal["failed"]
    error: ErrorRecord
    config: dict[str, Any]
    environment: EnvironmentRecord


class DoneResult(TypedDict):
    """The result of a finished cell."""

    cell: str
    status: Literal["done"]
    error: None
    model: ModelRecord
    mask: MaskRecord
    calibration: CalibrationRecord
    search: SearchRecord
    margins: MarginsRecord
    compensation: NotRequired[dict[str, float]]
    repair: NotRequired[RepairRecord]
    heal: NotRequired[HealRecord]
    evaluation: EvaluationRecord
    config: dict[str, Any]
    environment: EnvironmentRecord


Result = DoneResult | FailedResult


def read_result(folder: Path) -> Result | None:
    """The result in a cell's folder; None if there is no result.

    Raises DamagedError if the file does not contain a result, and InputError as `check_literal` does.
    """
    path = folder / NAME
    try:
        data: Any = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(data, dict) or not {"cell", "status", "config"} <= data.keys():
        raise DamagedError(f"{path} is damaged: it holds no result. Move it away and run the cell again.")
    distrusted = f"{path} is not to be trusted: "
    check_literal(data["config"], distrusted)
    try:
        evaluation = data.get("evaluation", {})
        named = [p for paths in evaluation.get("records", {}).values() for p in paths.values()]
        named += [data["heal"]["folder"]] if "folder" in data.get("heal", {}) else []
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged ({error!r}): move it away and run the cell again.") from error
    for one in named:
        check_inside(one, f"{distrusted}it")
    return cast(Result, data)


def read_done(folder: Path) -> DoneResult:
    """The result of a finished cell. Raises DamagedError if there is none."""
    result = read_result(folder)
    if result is None or result["status"] != "done":
        raise DamagedError(f"{folder} holds no finished result: run the cell again.")
    return result


# `<mask>.continuations.json`: what a model wrote after each prompt, beside the measurement of its mask.

ENDING = "continuations.json"
METRIC = "self_ppl/continuations"  # the metric whose measurement writes the file
SHOWN = 10  # prompts in a table for people


class ContinuationRecord(TypedDict):
    """The prompts and a model's continuations of them, in the same order."""

    prompts: list[str]
    texts: list[str]  # the greedy continuations
    greedy: list[list[int]]  # the tokens of `texts`
    sampled: NotRequired[list[list[int]]]  # only of the dense model: sampled continuations to score


def read_continuations(measured: Path) -> ContinuationRecord | None:
    """The continuations in the file beside a measurement's file; None without such a file. Can raise DamagedError."""
    path = measured.with_name(f"{measured.stem}.{ENDING}")
    if not path.exists():
        return None
    kept: Any = storage.read_json(path)
    known = isinstance(kept, dict) and {"prompts", "texts", "greedy"} <= kept.keys()
    if not known or not len(kept["prompts"]) == len(kept["texts"]) == len(kept["greedy"]):
        raise DamagedError(
            f"{path} is damaged: it holds no continuations. Move it and {measured} away, so that the model is "
            "measured again."
        )
    return cast(ContinuationRecord, kept)


# What a result says about healing: the training of the pruned model.

FOLDER = "healed"  # in a cell's folder: one folder for each healing run
RECORD = "heal.json"  # in such a folder: the record of the run
EVALUATION = "evaluation.json"  # beside it: the run's evaluation; a cell's result has only the last run's


class CurveRecord(TypedDict):
    """Four losses of a healing run: the held-out loss before and after, and the first and the last training loss."""

    heldout_before: float
    heldout_after: float
    first_loss: float
    last_loss: float


class RateTrial(TypedDict):
    """One learning rate that was tried in a short training; only with `heal.lr=null`."""

    lr: float
    tokens: int
    heldout_before: float | None
    heldout_loss: float | None
    seconds: float


class TrialRecord(TypedDict):
    """One candidate in one round of the selection."""

    dropped: list[int] | list[str]
    tokens: int  # of its healing so far, including earlier rounds
    heldout_loss: float  # cross entropy per token, in nats, after these tokens
    trained: int  # tokens of this round
    seconds: float  # of training in this round


class SelectionRecord(TypedDict):
    """How the mask to heal was selected among the masks of the search."""

    mask: dict[str, Any]
    changed: bool
    losses: list[float]
    rounds: list[list[TrialRecord]]
    tokens: int
    seconds: float


class HealRecord(TypedDict):
    """How the pruned model was trained."""

    folder: str
    settings: dict[str, Any]
    source: str
    text_sha256: str
    file_sha256: NotRequired[str]
    left_out: NotRequired[list[int]]
    evaluation: NotRequired[dict[str, Any]]
    tokens: int
    steps: int
    epochs: float
    seconds: float
    trained: int
    best_step: int
    stopped_early: bool
    curve: CurveRecord
    weights_sha256: str
    tensors: NotRequired[int]
    rates: NotRequired[list[RateTrial]]
    selection: NotRequired[SelectionRecord]


# How certain the choice of the mask is.


class ComparisonRecord(TypedDict):
    """A mask compared with a mask of lower loss, by the differences of their terms sample by sample."""

    dropped: list[int] | list[str]
    difference: float
    standard_error: float | None
    samples: int
    p_corrected: NotRequired[float]


class DecisionRecord(TypedDict):
    """One intermediate choice of the search, such as that of one greedy round."""

    best: int
    of: int
    chosen: list[int] | list[str]
    skipped: NotRequired[int]
    next: ComparisonRecord


class NearTiesRecord(TypedDict):
    """Choices between masks whose losses differ by less than the rounding of the model's precision."""

    settled: int
    changed: int
    open: int
    rounding: float | None


class MarginsRecord(TypedDict):
    """How certain the choice of the mask is."""

    compared: int
    runner_up: ComparisonRecord | None
    tied: int
    ties: list[list[int] | list[str]]
    decisions: NotRequired[list[DecisionRecord]]
    near_ties: NotRequired[NearTiesRecord]


# Names of metrics: `ppl/<corpus>`, `acc/<task>`, and `<metric>/stderr` for a metric's standard error.
#
# `acc/<task>` is lm-eval's `acc_norm` if the task has it, else its `acc`. If a task has both, its `acc` is recorded
# as `acc_plain/<task>`. `exact/<task>` is the share of generated answers that are right under lm-eval's first
# filter, and `exact_<filter>/<task>` that under another filter. The perplexity of the dense model's own
# continuations is not called `ppl/...`, because figures average all metrics of this name.

LABELS = {
    "ppl": "perplexity",
    "acc": "accuracy",
    "acc_plain": "plain accuracy",
    "acc_norm": "accuracy, normalised by length",
    "exact": "exact answers",
    "self_ppl": "perplexity of the dense model's text",
    "same": "tokens before the first difference",
    "repeated": "repeated tokens",
}
_ERROR, _PLAIN, _EXACT = "/stderr", "acc_plain", "exact"
# Kinds that are measured together with another kind, each mapped to this other kind.
_MAIN = {_PLAIN: "acc", "same": "self_ppl", "repeated": "self_ppl"}


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}{_ERROR}"


def with_error(metric: str, value: float, error: float, samples: int) -> dict[str, float]:
    """A metric and its standard error; no error if there is one sample, because 0 would mean an exact value."""
    return {metric: value, error_of(metric): error} if samples > 1 else {metric: value}


def plain_of(metric: str) -> str:
    """The name of the accuracy without length normalisation, given the name of the task's `acc`."""
    return f"{_PLAIN}/{metric.partition('/')[2]}"


def filtered_of(metric: str, name: str) -> str:
    """The name of a task's metric under the answer filter `name`, given its name under the first filter."""
    return f"{_EXACT}_{name}/{metric.partition('/')[2]}"


def main_of(metric: str) -> str:
    """The metric that is measured to get `metric`: `acc/<task>` for `acc_plain/<task>`; mostly `metric` itself."""
    kind = kind_of(metric)
    main = _EXACT if kind.startswith(f"{_EXACT}_") else _MAIN.get(kind, kind)
    return metric if main == kind else f"{main}/{metric.partition('/')[2]}"


def without_error(name: str) -> str:
    """The name of a metric, given that name or the name of its standard error."""
    return name.removesuffix(_ERROR)


def metrics_among(names: Iterable[str]) -> list[str]:
    """The names that are metrics and not standard errors, in order."""
    return [name for name in names if not name.endswith(_ERROR)]


def kind_of(metric: str) -> str:
    """`ppl`, `acc`, ...: the part before the slash."""
    return metric.partition("/")[0]


def label_of(metric: str) -> str:
    """The readable name of a metric's kind; an unknown kind is returned unchanged."""
    kind = kind_of(metric)
    if kind.startswith(f"{_EXACT}_"):
        return f"{LABELS[_EXACT]}, {kind.removeprefix(f'{_EXACT}_')}"
    return LABELS.get(kind, kind)


# Nested settings and records as flat names: `calibration.samples` for the key `samples` of `calibration`.


def leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each leaf; names are flat and start with `path`. An empty mapping is a leaf."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, string) for each string at any depth. Mapping keys are yielded, too."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield name, str(key)
            yield from texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item, name)


# The environment of a result: versions, commit, device, times.

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "hydra-core", "depth-pruning")


class EnvironmentRecord(TypedDict):
    """The software, the device and the times of a result."""

    packages: dict[str, str]
    commit: str | None
    device: str | None
    cpus: int | None
    instructions: NotRequired[str]
    started: str
    ended: str


def provenance(started: str, device: str | None) -> EnvironmentRecord:
    """Versions, commit, device and times of a run."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "packages": versions,
        "commit": commit(),
        "device": device,
        "cpus": os.cpu_count(),
        "instructions": instruction_set(),
        "started": started,
        "ended": now(),
    }


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the code, with `-dirty` if the checkout has uncommitted changes; None outside a checkout."""
    root = Path(__file__).parents[2]
    if (note := root / "COMMIT").exists():  # this code is a copy that was made for jobs
        return note.read_text() or None
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def now() -> str:
    """The current time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# Configurations in the form that results record: with the name of each class, without its module.
#
# Hydra needs `_target_: pruning.algo.greedy.Greedy`. So that classes can move, results contain
# `class: Greedy` and the option's name, `option: greedy`.

TARGET, CLASS, OPTION = "_target_", "class", "option"


def settings_classes(package: str, method: str) -> Iterator[tuple[str, type]]:
    """Yield (name, class) for each dataclass in a package that has `method`; the name of OneShot is `one_shot`."""
    path = importlib.import_module(package).__path__
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls) and hasattr(cls, method):
                yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(), cls


def recorded(settings: Any) -> Any:
    """Settings in which the class's name replaces its import path `_target_`, at any depth."""
    if isinstance(settings, list | tuple):
        return [recorded(item) for item in settings]
    if not isinstance(settings, Mapping):
        return settings
    made: dict[str, Any] = {}
    for key, value in settings.items():
        if key == TARGET and isinstance(value, str):
            made[CLASS] = value.rpartition(".")[2]
        else:
            made[str(key)] = recorded(value)
    return made


def check_literal(settings: Any, where: str = "") -> None:
    """Raise InputError, which starts with `where`, if a string contains `${`: OmegaConf would evaluate it."""
    for name, text in texts(settings):
        if "${" in text:
            raise InputError(
                f"{where}{name}={text} holds '${{', and recorded settings are literal: give the value itself, or "
                "rename the file or folder."
            )


def check_inside(path: Any, where: str) -> None:
    """Raise DamagedError, which starts with `where`, if a recorded path leads out of the results folder."""
    inside = isinstance(path, str) and not PurePosixPath(path).is_absolute()
    if not inside or ".." in PurePosixPath(path).parts or not PurePosixPath(path).parts:
        raise DamagedError(f"{where} names the path {path!r}, which leads out of the results folder.")


def without_option(settings: Any) -> Any:
    """Recorded settings without their option's name, because that name does not affect a result."""
    if isinstance(settings, Mapping):
        return {key: value for key, value in settings.items() if key != OPTION}
    return settings


def same_settings(first: Any, second: Any) -> bool:
    """Whether two records of a group's settings are equal except for option names; records may be in Hydra's form."""
    return bool(without_option(recorded(first)) == without_option(recorded(second)))


NO_HEALING = {CLASS: "NoHealing"}  # results do not record `heal` unless the cell is healed


# The maps that replace removed units.


class RepairRun(TypedDict):
    """Consecutive removed units, and the linear map that replaces them."""

    removed: list[str]
    folded: str | None
    form: NotRequired[str]
    reason: NotRequired[str]
    ridge: NotRequired[float]
    error_before: NotRequired[float]
    error_after: NotRequired[float]
    loss_before: NotRequired[dict[str, float]]
    loss_after: NotRequired[dict[str, float]]


class RepairRecord(TypedDict):
    """How runs of consecutive removed units were repaired; only with `compensation=linear`."""

    form: str
    samples: int
    tokens: int
    sequential: bool
    runs: list[RepairRun]
    sha256: str


def is_repaired(record: RepairRecord) -> bool:
    """Whether at least one map was kept."""
    return any(run["folded"] is not None for run in record["runs"])


# The speed of the dense and the pruned model.


class SpreadRecord(TypedDict):
    """A median over repeats with its quartiles."""

    median: float
    low: float
    high: float


class TimingRecord(TypedDict):
    """How fast one model generated."""

    prefill_per_second: SpreadRecord  # tokens of the prompt
    decode_per_second: SpreadRecord  # tokens after the first new one
    first_token_seconds: SpreadRecord
    peak_memory: int | None  # bytes; null if it cannot be measured


class RatioRecord(TypedDict):
    """The pruned model's median speed divided by the dense model's; above 1, the pruned model is the faster one."""

    prefill: float
    decode: float
    first_token: float


class SpeedRun(TypedDict):
    """The speed of both models for one shape of input."""

    batch: int
    prompt: int
    new_tokens: int
    dense: TimingRecord
    pruned: TimingRecord
    ratio: RatioRecord


class SizeRecord(TypedDict):
    """How large a model is."""

    parameters: int
    bytes: int


class SpeedRecord(TypedDict):
    """What `eval=speed` measures."""

    device: str
    repeats: int
    warmup: int
    dtype: str
    sizes: dict[str, SizeRecord]
    runs: list[SpeedRun]


# `studies/<name>.json`: the cells that a study asks for, so that missing cells can be found.


def path_of(results: Path, study: str) -> Path:
    """The file of a study."""
    return results / "studies" / f"{study}.json"


def names(results: Path) -> list[str]:
    """The sorted names of the studies in a results folder."""
    return sorted(path.stem for path in (results / "studies").glob("*.json"))


def read_study(results: Path, study: str) -> list[str]:
    """The keys of a study's cells; empty if the study has no file. Raises DamagedError if its file is damaged."""
    path = path_of(results, study)
    if not path.exists():
        return []
    try:
        data = storage.read_json(path)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}).") from error
    cells = data.get("cells") if isinstance(data, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, str) and cell for cell in cells):
        raise DamagedError(
            f"{path} is damaged (it is not the list of a study): move it away, and run the study's command again."
        )
    return cells


def write_study(results: Path, study: str, cells: Iterable[str]) -> None:
    """Write the list of a study's cells; a repeated cell is written only once."""
    storage.write_json(path_of(results, study), {"study": study, "cells": list(dict.fromkeys(cells))})


# The curve of a healing run, `heal.jsonl`, with one line per step.

CURVE = "heal.jsonl"


class Point(TypedDict):
    """One step of training; step 0 is the pruned model before training, and has no `loss`."""

    step: int
    tokens: int
    seconds: float
    loss: NotRequired[float]
    lr: NotRequired[float]
    heldout_loss: NotRequired[float]


def read(path: Path) -> list[Point]:
    """The points in a curve's file; empty if there is no file. An incomplete last line is left out."""
    if not path.exists():
        return []
    return [cast(Point, json.loads(line)) for _, line in storage.read_lines(path)]


def heldout(points: Sequence[Point]) -> list[Point]:
    """The points at which the held-out loss was measured."""
    return [point for point in points if "heldout_loss" in point]


# What a measurement keeps beside its value: the loss of each window, or the answer to each item.


def kept_terms(
    results: Path, result: DoneResult, metric: str, which: str = "pruned"
) -> Mapping[str, Any] | None:
    """The terms, one per sample, of a metric of a cell's model `which`; None if they are missing or damaged."""
    kept = cast(Mapping[str, Any], result["evaluation"]).get("records", {})
    path = kept.get(metric, {}).get(which)
    return None if path is None else terms_beside(results / path)


def terms_beside(measured: Path) -> Mapping[str, Any] | None:
    """The terms in the file beside a measurement's file; None if the terms are missing or damaged."""
    try:
        return cast(Mapping[str, Any], storage.read_json(measured.with_name(f"{measured.stem}.{TERMS}")))
    except (FileNotFoundError, DamagedError):
        return None  # commands of the analysis list damaged files when they end


def item_hits(terms: Mapping[str, Any]) -> list[float] | None:
    """Each item's credit for its answer, from 0 to 1; None if the samples are not items."""
    if "hits" in terms:
        return [*map(float, terms["hits"])]
    if "loglikelihoods" not in terms:
        return None
    items = zip(terms["loglikelihoods"], terms["right"], strict=True)
    return [right_share(scores, right) for scores, right in items]


def right_share(scores: Sequence[float], right: int) -> float:
    """1/n if the right answer is among the n answers that share the highest score, else 0.

    So a collapsed model, which scores all answers equally, gets the accuracy of random guesses.
    """
    return (scores[right] == max(scores)) / list(scores).count(max(scores))
