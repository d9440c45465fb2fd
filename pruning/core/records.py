"""`result.json` and the records beside it: their keys, and their only readers and writers.

`docs/results_folder.md` prints the sentence that is beside each key. A test checks that document and modules agree.
Keys marked `NotRequired` are absent from results of cells to which they do not apply, and from archived ones.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import logging
import os
import pkgutil
import platform
import re
import subprocess
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import MaskRecord, SearchRecord

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
    """The result in a cell's folder, with its configuration in today's form; None if there is none.

    Raises DamagedError if the file does not hold a result, InputError if its configuration is not literal.
    """
    path = folder / NAME
    try:
        data: Any = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(data, dict) or not {"cell", "status", "config"} <= data.keys():
        raise DamagedError(f"{path} is damaged: it holds no result. Move it away and run the cell again.")
    distrusted = f"{path} is not to be trusted: "
    data["config"] = with_limit(recorded(data["config"]))
    if isinstance(data["config"], dict):
        data["config"] = without_decided(data["config"])
    check_literal(data["config"], distrusted)
    try:
        evaluation = data.get("evaluation", {})
        named = [p for paths in evaluation.get("records", {}).values() for p in paths.values()]
        named += [data["heal"]["folder"]] if "folder" in data.get("heal", {}) else []
        if "settings" in evaluation:
            evaluation["settings"] = recorded(evaluation["settings"])
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is damaged ({error!r}): move it away and run the cell again.") from error
    for one in named:
        check_inside(one, f"{distrusted}it")
    return cast(Result, data)


def read_done(folder: Path) -> DoneResult:
    """The result of a finished cell. Raises DamagedError if the folder holds none."""
    result = read_result(folder)
    if result is None or result["status"] != "done":
        raise DamagedError(f"{folder} holds no finished result: run the cell again.")
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write a result into a cell's folder atomically. Raises ValueError for NaN and infinity."""
    storage.write_record(folder / NAME, cast(Mapping[str, Any], result))


# `<mask>.continuations.json`: what a model wrote after each prompt, beside the measurement of its mask.

ENDING = "continuations.json"
METRIC = "self_ppl/continuations"  # the metric whose measurement writes the file
SHOWN = 10  # prompts in a table for people


class ContinuationRecord(TypedDict):
    """The prompts and a model's continuations of them, in the same order."""

    prompts: list[str]
    texts: list[str]  # the greedy continuations
    greedy: list[list[int]]  # the same as tokens
    sampled: NotRequired[list[list[int]]]  # only of the dense model: the continuations that are scored


def read_continuations(measured: Path) -> ContinuationRecord | None:
    """The continuations beside the file of a measurement; None if there are none.

    Raises DamagedError if the file holds something else.
    """
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


# What a result says about a healing: the training of the pruned model.

FOLDER = "healed"  # in a cell's folder: one folder for each healing
RECORD = "heal.json"  # in a healing's folder: its record
EVALUATION = (
    "evaluation.json"  # there, of the healed model: a cell's result has only that of the last healing
)


class CurveRecord(TypedDict):
    """The curve of a healing in four numbers."""

    heldout_before: Annotated[
        float, "Cross entropy per token, in nats, on the held-out text before training."
    ]
    heldout_after: Annotated[float, "The same after training, with the weights that are kept."]
    first_loss: Annotated[float, "The loss of the first step."]
    last_loss: Annotated[float, "The loss of the last step."]


class RateTrial(TypedDict):
    """One learning rate that was tried; only with `heal.lr=null`."""

    lr: Annotated[float, "The learning rate."]
    tokens: Annotated[int, "Tokens of the trial."]
    heldout_before: Annotated[float | None, "The loss on the held-out text before it; null if it diverged."]
    heldout_loss: Annotated[float | None, "The loss after it, in nats per token; null if it was not finite."]
    seconds: Annotated[float, "Seconds of training."]


class TrialRecord(TypedDict):
    """One candidate in one round of the selection."""

    dropped: Annotated[list[int] | list[str], "What the candidate removes."]
    tokens: Annotated[int, "Tokens that it was healed on, those of earlier rounds included."]
    heldout_loss: Annotated[float, "Its cross entropy per token, in nats, on the held-out text after them."]
    trained: Annotated[int, "Tokens that were trained on in this round."]
    seconds: Annotated[float, "Seconds of training in this round."]


class SelectionRecord(TypedDict):
    """How the mask that is healed was selected among those of the search."""

    mask: Annotated[dict[str, Any], "The mask that was healed, in the form of `mask`."]
    changed: Annotated[bool, "Whether it is another one than the search chose."]
    losses: Annotated[
        list[float], "The loss of each candidate in the search, in the order of the first round."
    ]
    rounds: Annotated[
        list[list[TrialRecord]], "The candidates of each round; the first is the search's choice."
    ]
    tokens: Annotated[int, "Tokens that the selection trained on, all rounds together."]
    seconds: Annotated[float, "Seconds of training of all rounds."]


class HealRecord(TypedDict):
    """How the pruned model was trained."""

    folder: Annotated[str, "The folder of the weights and of the curve (`heal.jsonl`), in the cell's folder."]
    settings: Annotated[dict[str, Any], "The settings of `heal`."]
    source: Annotated[str, "Where the text comes from."]
    text_sha256: Annotated[str, "SHA-256 of the windows that were trained on or held out."]
    file_sha256: NotRequired[
        Annotated[
            str, "SHA-256 of the file `heal.path`; only with `heal.source=file`, not in older versions."
        ]
    ]
    left_out: NotRequired[
        Annotated[
            list[int],
            "Numbers of the drawn windows, the held-out ones first, that repeat a phrase of the evaluation; only of "
            "embedded text, not in older versions.",
        ]
    ]
    evaluation: NotRequired[
        Annotated[dict[str, Any], "The settings of that evaluation; only with `left_out`."]
    ]
    tokens: Annotated[int, "Tokens that were trained on."]
    steps: Annotated[int, "Steps of the optimizer."]
    epochs: Annotated[float, "How often the budget reads the text; above 1, text was repeated."]
    seconds: Annotated[float, "Seconds of training, without held-out losses."]
    trained: Annotated[int, "Number of parameters that were trained; with LoRA, those of the adapters."]
    best_step: Annotated[
        int, "The step with the lowest held-out loss, whose weights are kept; 0 is before training."
    ]
    stopped_early: Annotated[bool, "Whether training ended because the held-out loss no longer fell."]
    curve: Annotated[CurveRecord, "The curve in four numbers."]
    weights_sha256: Annotated[str, "Digest of `weights.safetensors`: the weights that have changed."]
    tensors: NotRequired[Annotated[int, "How many they are; not in older versions."]]
    rates: NotRequired[
        Annotated[list[RateTrial], "The trials that chose the learning rate; only with `heal.lr=null`."]
    ]
    selection: NotRequired[Annotated[SelectionRecord, "Only with `heal.candidates` above 1."]]


# What `result.json` says about how sure the choice of the mask is.


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


# Names of metrics: `ppl/<corpus>`, `acc/<task>`, and `<metric>/stderr` for a metric's standard error.
#
# `acc/<task>` is lm-eval's `acc_norm` if the task has it, else its `acc`: this is what every earlier result holds
# under that name. If a task has both, its `acc` is recorded as `acc_plain/<task>`.
#
# `exact/<task>` is the share of generated answers that are right. If a task of lm-eval extracts the answer in
# several ways (filters), this is the first way, and `exact_<filter>/<task>` are the others.
# `self_ppl/continuations` is the perplexity of the dense model's own continuations. It is not called `ppl/...`,
# since figures average those. `same/continuations` and `repeated/continuations` are measured with it.

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
# Kinds that are measured with another kind.
_MAIN = {_PLAIN: "acc", "same": "self_ppl", "repeated": "self_ppl"}


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}{_ERROR}"


def with_error(metric: str, value: float, error: float, samples: int) -> dict[str, float]:
    """A metric with its standard error. One sample has none: 0 would say that the value is exact."""
    return {metric: value, error_of(metric): error} if samples > 1 else {metric: value}


def plain_of(metric: str) -> str:
    """The name of the accuracy that is not normalised by length, given the name of an accuracy."""
    return f"{_PLAIN}/{metric.partition('/')[2]}"


def filtered_of(metric: str, name: str) -> str:
    """The name of the share of right answers under another filter, given that under the first filter."""
    return f"{_EXACT}_{name}/{metric.partition('/')[2]}"


def main_of(metric: str) -> str:
    """The name under which a metric is measured, such as `acc/<task>` for `acc_plain/<task>`; often its own name."""
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
    """The kind of a metric in words; an unknown kind is returned unchanged."""
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
    """Yield (name, text) for each text at any depth, in lists too. The keys of a mapping are texts with its name."""
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
    """What the result was computed with."""

    packages: Annotated[dict[str, str], "Versions of Python and of the packages that matter."]
    commit: Annotated[str | None, "The commit of this program; null outside a checkout."]
    device: Annotated[str | None, "The device of the first weights."]
    cpus: NotRequired[Annotated[int | None, "Number of cores of the machine."]]
    started: Annotated[str, "When the last run of the cell started, in UTC."]
    ended: Annotated[str, "When it ended."]


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
# Hydra needs `_target_: pruning.algo.stepwise.Greedy`. If the class later moves, a result with this path matches no
# configuration. So results hold `class: Greedy` and the name of the option, `option: greedy`. Older results hold
# `_target_`; `recorded` converts both forms to the recorded form.

TARGET, CLASS, OPTION = "_target_", "class", "option"


def settings_classes(package: str, method: str) -> Iterator[tuple[str, type]]:
    """Yield (name, class) for each dataclass with the method `method` in a package's modules.

    These are the classes that settings can choose. The name is that of the class: OneShot is `one_shot`.
    """
    path = importlib.import_module(package).__path__
    for info in pkgutil.iter_modules(path):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls) and hasattr(cls, method):
                yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(), cls


def recorded(settings: Any) -> Any:
    """Settings with each `_target_`, at any depth, replaced by the name of its class.

    Settings that are already in the recorded form are unchanged.
    """
    if isinstance(settings, list | tuple):
        return [recorded(item) for item in settings]
    if not isinstance(settings, Mapping):
        return settings
    made: dict[str, Any] = {}
    for key, value in settings.items():
        if key == TARGET and isinstance(value, str):
            made[CLASS] = RENAMED.get(value, value.rpartition(".")[2])
        else:
            made[str(key)] = recorded(value)
    return made


def check_literal(settings: Any, where: str = "") -> None:
    """Raise InputError, which starts with `where`, if a text holds `${`, because OmegaConf would evaluate it.

    An expression can call functions and read the environment, and a record can come from somebody else.
    """
    for name, text in texts(settings):
        if "${" in text:
            raise InputError(
                f"{where}{name}={text} holds '${{', and recorded settings are literal: give the value itself, or "
                "rename the file or folder."
            )


def check_inside(path: Any, where: str) -> None:
    """Raise DamagedError, which starts with `where`, unless a recorded path leads into the folder of its record."""
    inside = isinstance(path, str) and not PurePosixPath(path).is_absolute()
    if not inside or ".." in PurePosixPath(path).parts or not PurePosixPath(path).parts:
        raise DamagedError(f"{where} names the path {path!r}, which leads out of the results folder.")


def outward(config: Mapping[str, Any]) -> dict[str, str]:
    """The recorded settings, by name, that decide where this machine would write or send something.

    A results folder can come from somebody else, so a command uses these settings only if its words, or the
    environment variable MLFLOW_TRACKING_URI, give them too.
    """
    places = {"export": config.get("export")}
    for group, name in (("tracker", "uri"), ("model", "offload")):
        settings = config.get(group)
        places[f"{group}.{name}"] = settings.get(name) if isinstance(settings, Mapping) else None
    if places["tracker.uri"] == os.environ.get("MLFLOW_TRACKING_URI"):
        del places["tracker.uri"]
    return {name: str(value) for name, value in places.items() if value is not None}


def without_option(settings: Any) -> Any:
    """Recorded settings without the name of their option, because that name does not affect a result."""
    if isinstance(settings, Mapping):
        return {key: value for key, value in settings.items() if key != OPTION}
    return settings


def same_settings(first: Any, second: Any) -> bool:
    """Whether two settings of one group are equal, apart from the names of their options.

    Each can be in the recorded form or in Hydra's form. A setting that is null equals one that is absent, because
    archived results lack settings that were added since.
    """

    def given(settings: Any) -> Any:
        known = without_option(recorded(settings))
        return {key: v for key, v in known.items() if v is not None} if isinstance(known, Mapping) else known

    return bool(given(first) == given(second))


# Configurations of archived results, which lack what was added since they were recorded.
#
# Once all archives are written anew, this section can be deleted with its calls; `NO_HEALING` stays.

NO_HEALING = {CLASS: "NoHealing"}  # results do not record `heal` unless the cell is healed
# Classes that were renamed: the import path in such a result, and the name today.
RENAMED = {
    "pruning.compensation.Nothing": "NoCompensation",
    "pruning.track.Nothing": "NoTracker",
    "pruning.evaluation.perplexity.Perplexity": "CorpusPerplexity",
    "pruning.evaluation.local.Local": "LocalFiles",
    "pruning.launcher.local.Local": "InProcess",
    "pruning.launcher.processes.Processes": "LocalPool",
}
ADDED = {
    "heal": NO_HEALING,
    "unit": "block",
    "budget": "parameters",
    "latency": {},
    "near_ties": {},
    "max_evaluations": None,
}
# Settings that the program now decides, by group.
DECIDED = {
    "forward": ("batch_tokens", "patience", "merge", "tf32"),
    "model": ("attention",),
    "racing": ("first",),
}
# Settings of calibrations and searches that were added, and their defaults: a cell's key leaves these out.
NEW = {"disjoint": False, "lazy": None, "rank": "cost", "within": "any", "blocks": True}
# Settings that classes no longer have, with their former defaults, which the keys of cells hold.
FORMER: dict[str, dict[str, Any]] = {
    "Greedy": {"blocks": True},
    "Genetic": {"mutates": "set"},
    "Cbo": {"exact": 100_000_000},
    "CboHessian": {"exact": 100_000_000},
    "Exhaustive": {"batch": 256},
    "Linear": {"search": False, "toward": "identity", "sequential": True},
}


def with_limit(config: Any) -> Any:
    """A recorded configuration with `max_evaluations` at the top; archived results have it in the search."""
    algo = config.get("algo") if isinstance(config, dict) else None
    if not isinstance(algo, dict) or "max_evaluations" not in algo:
        return config
    own = {name: value for name, value in algo.items() if name != "max_evaluations"}
    return config | {"algo": own, "max_evaluations": algo["max_evaluations"]}


def with_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with what was added since, at its defaults, and without what is now decided."""
    return {**ADDED, **without_decided(config)}


def without_decided(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration without what is now decided."""
    whole = dict(config)
    for group, names in DECIDED.items():
        if isinstance(settings := whole.get(group), Mapping):
            whole[group] = {name: value for name, value in settings.items() if name not in names}
    for group, settings in whole.items():
        if isinstance(settings, Mapping) and (former := FORMER.get(settings.get(CLASS, ""))):
            whole[group] = {n: value for n, value in settings.items() if (n, value) not in former.items()}
    return whole


def without_new(record: dict[str, Any]) -> dict[str, Any]:
    """The settings of a calibration or a search without those that were added, if these have their defaults."""
    return {name: value for name, value in record.items() if (name, value) not in NEW.items()}


def nearest_option(settings: Mapping[str, Any], contents: Mapping[str, Mapping[str, Any]]) -> str:
    """The option whose content is most like recorded settings that do not name their option."""

    def distance(name: str) -> tuple[bool, int, int]:
        """Whether the class differs, how many settings do, and, against ties, how alike nested settings are."""
        content = contents[name]
        given = {
            key: value
            for key, value in content.items()
            if key not in (CLASS, "defaults") and not str(value).startswith(("???", "${"))
        }
        wrong = sum(settings.get(key) != value for key, value in given.items())
        nested, known = list(leaves(given)), dict(leaves(settings))
        alike = sum(known.get(key) == value for key, value in nested)
        return content[CLASS] != settings.get(CLASS), wrong, len(nested) - 2 * alike

    return min(contents, key=distance)


# What `result.json` says about the maps that stand in for removed units.


class RepairRun(TypedDict):
    """A run of removed units, and the map that stands in for it."""

    removed: Annotated[list[str], "The removed sub-layers, in the notation of `mask.dropped`."]
    folded: Annotated[
        str | None,
        "The sub-layer into whose weights the map is folded; null if nothing comes before, or if no map helps.",
    ]
    form: NotRequired[Annotated[str, "`linear` for a matrix, `diagonal` for one factor per dimension."]]
    reason: NotRequired[Annotated[str, "Why no map was folded, or a diagonal one and not a matrix."]]
    ridge: NotRequired[Annotated[float, "The ridge of the map."]]
    error_before: NotRequired[
        Annotated[
            float, "Squared error without a map on the held-out samples, as a share of what the map predicts."
        ]
    ]
    error_after: NotRequired[Annotated[float, "The same with a map that was fitted on the other samples."]]
    loss_before: NotRequired[
        Annotated[
            dict[str, float],
            "The loss on the held-out samples of each source, in nats per token, with the maps of earlier runs.",
        ]
    ]
    loss_after: NotRequired[Annotated[dict[str, float], "The same with the last map that was tried."]]


class RepairRecord(TypedDict):
    """How removed runs were repaired; only with `compensation=linear`."""

    form: Annotated[str, "What was asked for: `linear`."]
    samples: Annotated[int, "Number of calibration samples."]
    tokens: Annotated[int, "Their tokens."]
    sequential: Annotated[bool, "Whether each map was measured on the model that is repaired before it."]
    runs: Annotated[list[RepairRun], "The removed runs, in order."]
    sha256: Annotated[str, "Digest of the maps in `repair.safetensors`."]


def is_repaired(record: RepairRecord) -> bool:
    """Whether any map helped, so that there are maps."""
    return any(run["folded"] is not None for run in record["runs"])


# What `result.json` says about the speed of the dense and the pruned model.


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


# `studies/<name>.json`: the cells that a study asks for, so that missing cells can be found.


def path_of(results: Path, study: str) -> Path:
    """The file of a study."""
    return results / "studies" / f"{study}.json"


def names(results: Path) -> list[str]:
    """The studies of a results folder, sorted."""
    return sorted(path.stem for path in (results / "studies").glob("*.json"))


def read_study(results: Path, study: str) -> list[str]:
    """The keys of the cells that a study asks for; an empty list if there is no such study.

    Raises DamagedError if the file holds no list of cells.
    """
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
    """Write the list of a study; a repeated cell is written only once."""
    storage.write_json(path_of(results, study), {"study": study, "cells": list(dict.fromkeys(cells))})


# The cells that each study asks for, as tags of an MLflow experiment.
#
# A cell that has not started has no run, so the runs alone do not show which cells are missing. A tag holds up to
# 5,000 characters, so a long list is split over several tags: `study NAME 0`, `study NAME 1`, ...

log = logging.getLogger(__name__)

FIRST = "study"  # the first word of such a tag
LONGEST = 4900  # characters in the value of one tag


def record_studies(client: Any, experiment: str, results: Path) -> None:
    """Record the studies of a results folder; keep the cells that another folder has added to the same studies."""
    for tag, line in wanted_tags(client.get_experiment(experiment).tags, results).items():
        client.set_experiment_tag(experiment, tag, line)


def wanted_tags(tags: Mapping[str, str], results: Path) -> dict[str, str]:
    """The tags of the studies of a results folder, for an experiment that has `tags`. A damaged list is reported."""
    known, wanted = read_studies(tags), dict[str, str]()
    for name in names(results):
        try:
            listed = read_study(results, name)
        except DamagedError as error:
            log.warning("the study '%s' is not recorded: %s", name, error)
            continue
        cells = dict.fromkeys([*known.get(name, ()), *listed])
        lines = textwrap.wrap(" ".join(cells), LONGEST, break_long_words=False, break_on_hyphens=False)
        wanted |= {f"{FIRST} {name} {number}": line for number, line in enumerate(lines)}
    return wanted


def read_studies(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """The cells of each study, from the tags of an experiment."""
    studies: dict[str, dict[int, str]] = {}
    for tag, line in tags.items():
        word, _, rest = tag.partition(" ")
        name, _, number = rest.rpartition(" ")
        if word == FIRST and number.isdigit():
            studies.setdefault(name, {})[int(number)] = line
    return {name: " ".join(lines[n] for n in sorted(lines)).split() for name, lines in studies.items()}


# The curve of a healing, `heal.jsonl`: one line per step, and how it is summed up in a result.

CURVE = "heal.jsonl"


class Point(TypedDict):
    """One step of training; step 0 is the pruned model before it."""

    step: Annotated[int, "The number of steps so far."]
    tokens: Annotated[int, "The number of tokens so far."]
    seconds: Annotated[float, "Seconds of training so far."]
    loss: NotRequired[Annotated[float, "The loss of the step's text before the step; absent for step 0."]]
    lr: NotRequired[Annotated[float, "The learning rate of the step."]]
    heldout_loss: NotRequired[Annotated[float, "Cross entropy per token on held-out text, after the step."]]


def read(path: Path) -> list[Point]:
    """The points in a curve's file; empty if there is no file. A torn last line is left out."""
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
    """The terms of a cell's mask, or of the dense model; None if they were not kept, or are damaged."""
    kept = cast(Mapping[str, Any], result["evaluation"]).get("records", {})
    path = kept.get(metric, {}).get(which)
    return None if path is None else terms_beside(results / path)


def terms_beside(measured: Path) -> Mapping[str, Any] | None:
    """The terms that were kept beside the file of a measurement; None if there are none, or if they are damaged."""
    try:
        return cast(Mapping[str, Any], storage.read_json(measured.with_name(f"{measured.stem}.{TERMS}")))
    except (FileNotFoundError, DamagedError):
        return None  # the commands of the analysis name damaged files at their end


def item_hits(terms: Mapping[str, Any]) -> list[float] | None:
    """How right each item was answered, from 0 to 1; None if the terms are not those of items."""
    if "hits" in terms:
        return [*map(float, terms["hits"])]
    if "loglikelihoods" not in terms:
        return None
    items = zip(terms["loglikelihoods"], terms["right"], strict=True)
    return [right_share(scores, right) for scores, right in items]


def right_share(scores: Sequence[float], right: int) -> float:
    """1 if the right answer alone has the highest score, 1/n if n answers including it have, else 0.

    So a collapsed model, which scores all answers equally, gets the accuracy of random guesses.
    """
    return (scores[right] == max(scores)) / list(scores).count(max(scores))
