"""A cell of the grid: its settings, its key, its folder and its result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.algo import Algo
from pruning.calibration import Calibration
from pruning.core.errors import ForeignError, InputError, PruningError
from pruning.core.hashing import digest, file_sha256
from pruning.core.nested import leaves
from pruning.core.recorded import OPTION, recorded
from pruning.core.result import NAME, Result, read_result
from pruning.engine.compensation import Compensation, NoCompensation
from pruning.evaluation import Evaluation
from pruning.healing.settings import NoHealing
from pruning.models.spec import PLACING, Model, same_attention
from pruning.objective import Objective
from pruning.runs.cell_key import key_in
from pruning.runs.removal import Latency, Removal
from pruning.search.near_ties import NearTies
from pruning.search.racing import Racing

LOCATING = ("path", "gguf_file", "name")  # settings that a cell's key represents by contents, or not at all
NEW = {
    "disjoint": False,
    "lazy": None,
    "rank": "cost",
    "within": "any",
    "blocks": True,
}  # settings of calibrations and searches that came later, and their defaults
FORMAT = 1  # version of a cell's files and of its losses; increase it if old results must not be reused


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Protect:
    """The first `first` blocks and the last `last` blocks of the model must not be removed."""

    first: int = 0
    last: int = 0


@dataclass
class ForwardSettings:
    """How forward passes are run. Apart from `tf32`, no setting changes more than the rounding of losses.

    `batch_tokens` is the number of tokens that a block processes at once. `memory` is the number of bytes that can
    be used besides the weights (None: a quarter of the free memory). If the process is killed, about `patience`
    seconds of work are lost. `merge` says whether several masks can run as one batch (None: only in full precision
    on a CPU, or if weights are on disk). `tf32` lets a GPU round the factors of float32 products to 10 bits.
    Because this changes losses, `tf32` is part of the cell's key if it is on. `compile` runs whole blocks through
    torch.compile. With `bounds`, a search for perplexity or divergence does not compute losses that a bound shows
    to be too high.
    """

    batch_tokens: int = 2048
    memory: int | None = None
    patience: float = 20.0
    merge: bool | None = None
    tf32: bool = False
    compile: bool = False
    bounds: bool = False

    def check(self) -> None:
        """Raise InputError if a number is out of range.

        This is a separate method because OmegaConf does not call __init__.
        """
        for name, least in (("batch_tokens", 1), ("memory", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"forward.{name}={value} is too small: choose {least} or more.")
        if not 0 < self.patience < math.inf:
            raise InputError(f"forward.patience={self.patience:g} is out of range: choose seconds above 0.")
        if self.compile:
            from pruning.models.compiled import check_compiler

            check_compiler()


@dataclass(frozen=True)
class Choices:
    """The name of the option that was chosen in each configuration group, for people to read."""

    objective: str
    calibration: str
    algo: str


@dataclass(frozen=True)
class Cell:
    """One configuration of the grid. Two cells with the same `key` are the same cell."""

    choices: Choices
    model: Model
    objective: Objective
    calibration: Calibration
    algo: Algo
    compensation: Compensation
    evaluation: Evaluation
    tracker: Any
    ratio: float | None
    k: int | None
    protect: Protect
    seed: int
    study: str
    results: Path
    export: Path | None  # the directory for the smaller model
    forward: ForwardSettings
    share: bool
    racing: Racing
    near_ties: NearTies
    config: Mapping[str, Any]
    unit: str = "block"
    budget: str = "parameters"
    latency: Latency = dataclasses.field(default_factory=Latency)
    # Training of the pruned model. Like the evaluation, it is not part of the key.
    heal: Any = dataclasses.field(default_factory=NoHealing)

    @cached_property
    def key(self) -> str:
        """A readable name, followed by a digest of everything that the result of the search depends on.

        If the model is in a directory and the cell has a folder already, this is the folder's name: see `cell_key`.
        These do not change the key: the folders of results and caches, trackers, launchers, batch sizes, device maps,
        and the name of the study. The evaluation does not change it either, because a finished mask can be evaluated
        again.
        """
        size = f"k{self.k}" if self.ratio is None else f"r{self.ratio:g}"
        stem = "-".join((self.choices.objective, self.choices.algo, size, f"s{self.seed}"))
        own = digest(self.identity())
        if not self.model.in_directory:
            return f"{self.model.name}-{stem}-{own}"
        return key_in(self.results, self.model, stem, own, self._earlier_digest)

    def _earlier_digest(self) -> str:
        """The digest in the key that earlier versions gave this cell."""
        return digest(self.identity() | {"model": self._with_tf32(self.model.earlier_identity())})

    @property
    def title(self) -> str:
        """Model, objective and search in a few words, for a progress bar."""
        return f"{self.model.name} {self.choices.objective} {self.choices.algo}"

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """The identity of the model when the cell was first asked for it. A directory can change later."""
        return self.model.identity()

    def weights(self) -> dict[str, Any]:
        """The model settings that a loss depends on: weights, precision, attention kernel, and TF32 if it is on."""
        return self._with_tf32(self.model_identity)

    def _with_tf32(self, model: dict[str, Any]) -> dict[str, Any]:
        return model | ({"tf32": True} if self.forward.tf32 else {})

    def identity(self) -> dict[str, Any]:
        """The settings that the result of the search depends on. Files are represented by their digests."""
        # Results of versions without these settings are found done, so defaults are not part of the key.
        ties = {} if self.near_ties == NearTies() else {"near_ties": dataclasses.asdict(self.near_ties)}
        units: dict[str, Any] = {} if self.unit == "block" else {"unit": self.unit}
        if self.budget != "parameters":
            units |= {"budget": self.budget, "latency": dataclasses.asdict(self.latency)}
        # Bounds change what a lazy search predicts. Other searches find the same mask, and a race uses no bounds.
        lazy = getattr(self.algo, "lazy", None) is not None and self.algo.max_evaluations is None
        bounded = lazy and self.racing.delta is None and getattr(self.objective, "bounded", False)
        bounds = {"bounds": True} if self.forward.bounds and bounded else {}
        return (
            ties
            | units
            | bounds
            | {
                "format": FORMAT,
                "model": self.weights(),
                "objective": settings_record(self.objective),
                "calibration": _data(self.calibration),
                "algo": _without_new(settings_record(self.algo)),
                "compensation": None
                if self.compensation == NoCompensation()
                else settings_record(self.compensation),
                "ratio": self.ratio,
                "k": self.k,
                "protect": dataclasses.asdict(self.protect),
                "seed": self.seed,
                "racing": dataclasses.asdict(self.racing) if self.racing.delta is not None else None,
            }
        )

    @property
    def removal(self) -> Removal:
        """Which units are removed, and how many of them."""
        protect = self.protect
        return Removal(self.ratio, self.k, self.unit, self.budget, protect.first, protect.last)

    @property
    def folder(self) -> Path:
        """The folder of this cell's files."""
        return self.results / self.key

    @property
    def finished(self) -> bool:
        """Whether the folder holds a result that must stay: finished, damaged, or of another cell."""
        try:
            result = self.result()
        except PruningError:
            return True
        return result is not None and result["status"] == "done"

    def result(self) -> Result | None:
        """The recorded result, or None. Raises ForeignError if the folder holds a result of another configuration."""
        if (result := read_result(self.folder)) is None:
            return None
        other = "cell" if result["cell"] != self.key else _difference(result["config"], self.config)
        if other:
            raise ForeignError(
                f"{self.folder / NAME} is the result of another configuration ({other} differs): move the folder "
                f"{self.folder} away, or choose another with paths.results=DIR."
            )
        return result


def _difference(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting that affects the result of a search and differs between two configurations, or None.

    Settings that only locate files are ignored.
    """
    a, b = (dict(_deciding(config)) for config in (recorded, wanted))
    return next((key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)), None)


def _deciding(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in ("objective", "algo", "compensation", "protect", "calibration", "model"):
        for name, value in leaves(recorded(config.get(group, {})), f"{group}."):
            last = name.rpartition(".")[2]
            if group in ("algo", "calibration") and (last, value) in NEW.items():
                continue  # results of earlier versions do not have it
            if last not in (OPTION, *LOCATING) and name.split(".")[1] not in PLACING:
                yield name, same_attention(value) if name == "model.attention" else value
    for name in ("ratio", "k", "seed", "racing"):
        yield name, config.get(name)
    yield from (("unit", config.get("unit", "block")), ("budget", config.get("budget", "parameters")))


def _data(calibration: Any) -> dict[str, Any]:
    """The settings of a calibration and of its parts. Files are represented by their digests."""
    record = _without_new(settings_record(calibration))
    for item in dataclasses.fields(calibration):
        if hasattr(part := getattr(calibration, item.name), "draw"):
            record[item.name] = _data(part)
    if (file := calibration.file()) is not None:
        record["path"] = _file_digest(file)
    return record


def settings_record(settings: Any) -> dict[str, Any]:
    """The type and the fields of a frozen dataclass of settings."""
    return {"type": type(settings).__name__, **dataclasses.asdict(settings)}


def _without_new(record: dict[str, Any]) -> dict[str, Any]:
    """The record of settings without settings that earlier versions did not have, if these have their defaults."""
    return {name: value for name, value in record.items() if (name, value) not in NEW.items()}


def _file_digest(path: str) -> str:
    file = Path(path).expanduser()
    try:
        return file_sha256(file)
    except OSError:
        return path  # a file that is missing or cannot be read is reported when the cell is checked
