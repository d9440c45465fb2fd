"""A cell of the grid: its settings, its key, its folder and its result."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, Protocol

import yaml
from filelock import FileLock, Timeout

from pruning.algo import Algo
from pruning.calibration import Calibration
from pruning.calibration.samples import Samples
from pruning.core import storage
from pruning.core.errors import BusyError, ForeignError, PruningError, check_least
from pruning.core.mask import Latency, Mask, Removal, Space
from pruning.core.records import (
    FORMER,
    LOG,
    MASK,
    NAME,
    NEW,
    OPTION,
    DoneResult,
    Result,
    leaves,
    read_result,
    recorded,
    without_decided,
    without_new,
    write_result,
)
from pruning.core.scoring import NearTies, Racing, deciding_settings
from pruning.core.storage import appending, check_links, digest, file_sha256
from pruning.engine import collectives
from pruning.engine.compensation import Compensation, NoCompensation
from pruning.evaluation import Data, Evaluation
from pruning.healing.heal_settings import NoHealing
from pruning.healing.training_text import HealingText
from pruning.models.handle import PLACING, Model
from pruning.objective import Objective


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
    max_evaluations: int | None = None  # distinct masks after which the search is stopped

    @cached_property
    def key(self) -> str:
        """A readable name, followed by a digest of everything that the result of the search depends on.

        If the model is in a directory and the cell has a folder already, this is the folder's name.
        These do not change the key: the folders of results and caches, trackers, launchers, batch sizes, device maps,
        and the name of the study. The evaluation does not change it either, because a finished mask can be evaluated
        again.
        """
        size = f"k{self.k}" if self.ratio is None else f"r{self.ratio:g}"
        stem = "-".join((self.choices.objective, self.choices.algo, size, f"s{self.seed}"))
        own = f"{self.model.name}-{stem}-{digest(self.identity())}"
        if not self.model.in_directory or (self.results / own).exists():
            return own
        # The name is not part of the identity: the model can have been in a directory of another name.
        same = sorted(self.results.glob(f"*-{escape(stem)}-{own.rpartition('-')[2]}"))
        return same[0].name if same else own

    @property
    def title(self) -> str:
        """Model, objective and search in a few words, for a progress bar."""
        return f"{self.model.name} {self.choices.objective} {self.choices.algo}"

    def weights(self) -> dict[str, Any]:
        """The model settings that a loss depends on: weights, precision and attention kernel."""
        return self.model.identity()

    def arithmetic(self) -> dict[str, Any]:
        """What losses and measurements are computed with: `weights`, and whether blocks are compiled.

        Compiling only changes the rounding, so it is not part of a cell's key. But losses that are compared with each
        other must be rounded alike.
        """
        return self.weights() | ({"compile": True} if self.forward.compile else {})

    def identity(self) -> dict[str, Any]:
        """The settings that the result of the search depends on. Files are represented by their digests.

        Settings that a cell does not use are left out, so that a setting that is added later changes no key.
        """
        bounds = self.forward.bounds and getattr(self.objective, "bounded", False)
        limit, compensation = self.max_evaluations, self.compensation
        record = deciding_settings(self.algo, self.racing, self.near_ties, bounds, limit)
        if self.unit != "block":
            record |= {"unit": self.unit}
        if self.budget != "parameters":
            record |= {"budget": self.budget, "latency": dataclasses.asdict(self.latency)}
        return record | {
            "format": FORMAT,
            "model": self.weights(),
            "objective": settings_record(self.objective),
            "calibration": calibration_record(self.calibration),
            "algo": without_new(settings_record(self.algo)) | {"max_evaluations": limit},
            "compensation": None if compensation == NoCompensation() else settings_record(compensation),
            "ratio": self.ratio,
            "k": self.k,
            "protect": dataclasses.asdict(self.protect),
            "seed": self.seed,
        }

    @property
    def removal(self) -> Removal:
        """Which units are removed, and how many of them."""
        protect = self.protect
        return Removal(self.ratio, self.k, self.unit, self.budget, protect.first, protect.last)

    def evaluations(self, space: Space) -> int:
        """An upper bound on the number of losses that the search asks for in a space."""
        most = self.algo.evaluations(space)
        return most if self.max_evaluations is None else min(most, self.max_evaluations)

    @property
    def folder(self) -> Path:
        """The folder of this cell's files."""
        return self.results / self.key

    @property
    def finished(self) -> bool:
        """Whether the folder holds a result that must stay: finished, damaged, or of another cell."""
        try:
            return self.done() is not None
        except PruningError:
            return True

    def result(self) -> Result | None:
        """The recorded result, or None. Raises ForeignError if the folder holds a result of another configuration."""
        if (result := read_result(self.folder)) is None:
            return None
        other = "cell" if result["cell"] != self.key else difference(result["config"], self.config)
        if other:
            raise ForeignError(
                f"{self.folder / NAME} is the result of another configuration ({other} differs): move the folder "
                f"{self.folder} away, or choose another with paths.results=DIR."
            )
        return result

    def done(self) -> DoneResult | None:
        """The recorded result if the cell is finished. Raises ForeignError as `result` does."""
        result = self.result()
        return result if result is not None and result["status"] == "done" else None


@dataclass(frozen=True)
class Prepared:
    """A cell whose input is valid, with its samples, evaluation data and search space. No weights are loaded.

    The space is None if it depends on what units cost, which is known only when the model is loaded.
    """

    cell: Cell
    samples: Samples
    data: Mapping[str, Data]
    space: Space | None
    text: HealingText | None = None  # what the pruned model is trained on
    overlap: Mapping[str, int] = dataclasses.field(default_factory=dict)  # with eval.allow_overlap, by metric

    @property
    def evaluations(self) -> int:
        """About how many losses the search asks for, at most; if units have costs, as if these were equal."""
        space = self.space
        if space is None:
            count, removal = self.cell.model.n_blocks, self.cell.removal
            units = count if removal.mask_unit == "block" else 2 * count
            space = removal.space(count, [1.0] * units)
        return self.cell.evaluations(space)


# The settings that decide a cell's result: they make its key, and they tell two configurations apart.

LOCATING = ("path", "gguf_file", "name")  # settings that a cell's key represents by contents, or not at all
FORMAT = 1  # version of a cell's files and of its losses; increase it if old results must not be reused


def difference(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting that affects the result of a search and differs between two configurations, or None.

    Settings that only locate files are ignored.
    """
    a, b = (dict(_deciding(config)) for config in (known, wanted))
    return next((key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)), None)


def _deciding(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    config = without_decided(recorded(config))
    for group in ("objective", "algo", "compensation", "protect", "calibration", "model"):
        for name, value in leaves(config.get(group, {}), f"{group}."):
            last = name.rpartition(".")[2]
            if group in ("algo", "calibration") and (last, value) in NEW.items():
                continue  # archived results do not have it
            if last not in (OPTION, *LOCATING) and name.split(".")[1] not in PLACING:
                yield name, value
    for name in ("ratio", "k", "seed", "max_evaluations"):
        yield name, config.get(name)
    yield "racing.delta", (config.get("racing") or {}).get("delta")
    yield from (("unit", config.get("unit", "block")), ("budget", config.get("budget", "parameters")))


def calibration_record(calibration: Any) -> dict[str, Any]:
    """The settings of a calibration and of its parts. Files are represented by their digests."""
    record = without_new(settings_record(calibration))
    for item in dataclasses.fields(calibration):
        if hasattr(part := getattr(calibration, item.name), "draw"):
            record[item.name] = calibration_record(part)
    if (file := calibration.file()) is not None:
        record["path"] = _file_digest(file)
    return record


def settings_record(settings: Any) -> dict[str, Any]:
    """The type and the fields of a frozen dataclass of settings, with the fields that the type had formerly."""
    name = type(settings).__name__
    return {"type": name, **dataclasses.asdict(settings), **FORMER.get(name, {})}


def _file_digest(path: str) -> str:
    file = Path(path).expanduser()
    try:
        return file_sha256(file)
    except OSError:
        return path  # a file that is missing or cannot be read is reported when the cell is checked


# Settings of a cell that are the same for every model and search: protected blocks, and how forward passes run.


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Protect:
    """The first `first` blocks and the last `last` blocks of the model must not be removed."""

    first: int = 0
    last: int = 0


@dataclass
class ForwardSettings:
    """How forward passes are run. No setting changes more than the rounding of losses.

    `memory` is the number of bytes that can be used besides the weights (None: a quarter of the free memory).
    `compile` runs whole blocks through torch.compile. With `bounds`, a search for perplexity
    or divergence does not compute losses that a bound shows to be too high.
    """

    memory: int | None = None
    compile: bool = False
    bounds: bool = False

    def check(self) -> None:
        """Raise InputError if a number is out of range.

        This is a separate method because OmegaConf does not call __init__.
        """
        check_least("forward", self, memory=1)
        if self.compile:
            from pruning.models.products import check_compiler

            check_compiler()


# Write the files in a cell's folder. If there are several ranks, only the first rank writes.


def save_config(cell: Cell, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`: the configuration, in which options and classes are names."""
    if collectives.is_first():
        storage.write_text(cell.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def save_mask(cell: Cell, mask: Mask) -> None:
    """Write `mask.json`."""
    if collectives.is_first():
        storage.write_json(cell.folder / MASK, mask.to_json())


def save_result(cell: Cell, result: Result) -> None:
    """Write `result.json`, which records that the cell has ended."""
    if collectives.is_first():
        write_result(cell.folder, result)


# Lock a cell while it runs, and meanwhile copy log messages into the cell's folder.


@contextmanager
def cell_lock(cell: Cell) -> Iterator[None]:
    """Lock a cell; the first rank does this for all ranks. Raises BusyError if another process has the lock."""
    lock = FileLock(cell.folder / ".lock", timeout=0)

    def take() -> None:
        check_folder(cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{cell.key} is being run by another process.") from None

    collectives.on_first(take)
    try:
        with _logged(cell.folder / LOG):
            yield
    finally:
        lock.release()


def check_folder(cell: Cell) -> None:
    """Raise InputError if a folder that the cell writes to is a symbolic link: what it leads to may be somebody's."""
    check_links(cell.results, cell.folder)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Within this context, the first rank's log messages are also written to the cell's log file."""
    if not collectives.is_first():
        yield
        return
    stream = appending(path)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        stream.close()


# The interface of trackers, and a tracker that does nothing. Trackers only copy what the result files contain.

BEST = "search/best_so_far"


class Note(Protocol):
    """Called during a search with the number of masks scored so far and the lowest loss.

    In a healing, it is called with the number of tokens, a loss, and the name of the loss.
    """

    def __call__(self, step: int, value: float, name: str = BEST, /) -> None:
        """Send one number."""
        ...


class Tracker(Protocol):
    """The interface of trackers. If `start` or `record` raises, the caller only warns. Other methods never raise."""

    def start(self, results: Path) -> None:
        """Prepare the tracker; called once, before any cell runs."""
        ...

    def live(self, cell: Cell) -> AbstractContextManager[Note]:
        """A context for the run of a cell. The context yields a function; the search calls it after each score."""
        ...

    def finished(self, folder: Path) -> None:
        """Called after each run of a cell. Its folder then contains a result or a failure."""
        ...

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record the cells in these folders. A cell that is already recorded is not recorded again."""
        ...


@contextmanager
def silent() -> Iterator[Note]:
    """A context that yields a function that does nothing."""
    yield lambda *_: None


@dataclass(frozen=True)
class NoTracker:
    """The tracker that does nothing."""

    def start(self, results: Path) -> None:
        """Nothing to do."""

    def live(self, cell: Cell) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Nothing to do."""
        return silent()

    def finished(self, folder: Path) -> None:
        """Nothing to do."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Nothing to do."""
