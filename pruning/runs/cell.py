"""A cell of the grid: its settings, key, folder, result and model, and the space of its masks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import yaml
from filelock import FileLock, Timeout

from pruning.algo import Algo
from pruning.calibration import Calibration, file_of
from pruning.calibration.samples import Samples
from pruning.core import records, storage
from pruning.core.errors import BusyError, ForeignError
from pruning.core.mask import Latency, Removal, Space
from pruning.core.scoring import NearTies, Racing
from pruning.core.storage import digest, file_sha256
from pruning.engine import collectives
from pruning.engine.compensation import Compensation
from pruning.evaluation import Data, Evaluation
from pruning.healing.heal_settings import NoHealing
from pruning.healing.training_text import HealingText
from pruning.models.handle import Model
from pruning.objective import Objective

if TYPE_CHECKING:
    from pruning.engine.forward import Forward
    from pruning.models.placement import LanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """The arguments of the command that runs a cell. None of them changes the cell's result."""

    results: Path  # the folder of all results
    study: str
    tracker: Tracker
    share: bool  # whether losses are shared with other cells
    export: Path | None = None  # the directory for the smaller model
    alone: bool = False  # whether the cell is the command's only one, so nothing else reads its losses


@dataclass(frozen=True)
class Cell:
    """One configuration of the grid. Two cells with the same `key` are the same cell."""

    model: Model
    objective: Objective
    calibration: Calibration
    algo: Algo
    compensation: Compensation
    evaluation: Evaluation
    ratio: float | None
    k: int | None
    protect: Protect
    seed: int
    racing: Racing
    near_ties: NearTies
    command: Command
    config: Mapping[str, Any]
    unit: str = "block"
    budget: str = "parameters"
    latency: Latency = dataclasses.field(default_factory=Latency)
    # Training of the pruned model. Like the evaluation, it is not part of the key.
    heal: Any = dataclasses.field(default_factory=NoHealing)
    max_evaluations: int | None = None  # the search stops after this number of distinct masks

    @cached_property
    def key(self) -> str:
        """A readable name, and a digest of everything that the result of the search depends on.

        The key does not depend on the folders of results and caches, trackers, launchers, batch sizes, device maps,
        or the name of the study. It does not depend on the evaluation either: a finished mask can be evaluated again.
        """
        size = f"k{self.k}" if self.ratio is None else f"r{self.ratio:g}"
        stem = "-".join((self.option("objective"), self.option("algo"), size, f"s{self.seed}"))
        return f"{self.model.name}-{stem}-{digest(self.identity())}"

    def option(self, group: str) -> str:
        """The readable name of the option that is chosen in a configuration group, such as `model`."""
        return str(self.config[group][records.OPTION])

    def identity(self) -> dict[str, Any]:
        """The settings that the result of the search depends on. Files are represented by their digests."""
        record = {
            "format": FORMAT,
            "model": self.model.identity(),
            "objective": settings_record(self.objective),
            "calibration": calibration_record(self.calibration),
            "algo": settings_record(self.algo),
            "compensation": settings_record(self.compensation),
            "racing": dataclasses.asdict(self.racing),
            "near_ties": dataclasses.asdict(self.near_ties),
            "max_evaluations": self.max_evaluations,
            "ratio": self.ratio,
            "k": self.k,
            "unit": self.unit,
            "budget": self.budget,
            "protect": dataclasses.asdict(self.protect),
            "seed": self.seed,
        }
        return record | ({"latency": dataclasses.asdict(self.latency)} if self.budget == "latency" else {})

    @property
    def removal(self) -> Removal:
        """The kind of unit that is removed, and the number or share of removed units."""
        protect = self.protect
        return Removal(self.ratio, self.k, self.unit, self.budget, protect.first, protect.last)

    def evaluations(self, space: Space) -> int:
        """An upper bound on the number of losses that the search asks for in `space`."""
        most = self.algo.evaluations(space)
        return most if self.max_evaluations is None else min(most, self.max_evaluations)

    def under(self, **arguments: Any) -> Cell:
        """The same cell under a command with other arguments."""
        return dataclasses.replace(self, command=dataclasses.replace(self.command, **arguments))

    @property
    def folder(self) -> Path:
        """The folder of this cell's files."""
        return self.command.results / self.key

    def result(self) -> records.Result | None:
        """The recorded result, or None. Raises ForeignError if the folder contains another cell's result."""
        result = records.read_result(self.folder)
        if result is not None and result["cell"] != self.key:
            raise ForeignError(
                f"{self.folder / records.NAME} is the result of another cell ({result['cell']}): move the folder "
                f"{self.folder} away, or choose another with paths.results=DIR."
            )
        return result

    def done(self) -> records.DoneResult | None:
        """The recorded result if the cell is finished, else None. Raises ForeignError as `result` does."""
        result = self.result()
        return result if result is not None and result["status"] == "done" else None


@dataclass(frozen=True)
class Prepared:
    """A checked cell with its samples, evaluation data and search space. The model is not loaded yet.

    The space is None if it depends on the costs of units, which are known only after the model is loaded.
    """

    cell: Cell
    samples: Samples
    data: Mapping[str, Data]
    space: Space | None
    text: HealingText | None = None  # what the pruned model is trained on
    overlap: Mapping[str, int] = dataclasses.field(default_factory=dict)  # number of shared pieces, by metric

    @property
    def evaluations(self) -> int:
        """An upper bound on the number of losses that the search asks for; 0 if the space is not known."""
        return 0 if self.space is None else self.cell.evaluations(self.space)


FORMAT = 1  # version of a cell's files and of its losses; increase it if old results must not be reused


def calibration_record(calibration: Any) -> dict[str, Any]:
    """The settings of a calibration and of its parts. Files are represented by their digests."""
    record = settings_record(calibration)
    for item in dataclasses.fields(calibration):
        if hasattr(part := getattr(calibration, item.name), "draw"):
            record[item.name] = calibration_record(part)
    if (file := file_of(calibration)) is not None:
        record["path"] = _file_digest(file)
    return record


def settings_record(settings: Any) -> dict[str, Any]:
    """The type and the fields of a frozen dataclass of settings."""
    return {"type": type(settings).__name__, **dataclasses.asdict(settings)}


def _file_digest(path: str) -> str:
    file = Path(path).expanduser()
    try:
        return file_sha256(file)
    except OSError:
        return path  # checking the cell later reports the missing or unreadable file


@dataclass(unsafe_hash=True)  # not frozen, because OmegaConf makes frozen dataclasses read-only
class Protect:
    """The first `first` blocks and the last `last` blocks of the model must not be removed."""

    first: int = 0
    last: int = 0


# Write the files in a cell's folder. If there are several ranks, only the first rank writes.


def save_config(cell: Cell, config: Mapping[str, Any]) -> None:
    """Write the configuration to `config.yaml`; options and classes are given by their names."""
    if collectives.is_first():
        storage.write_text(cell.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def save_result(cell: Cell, result: records.Result) -> None:
    """Write `result.json`, which records that the cell has ended. Raises ValueError for NaN and infinity."""
    if collectives.is_first():
        storage.write_record(cell.folder / records.NAME, cast(Mapping[str, Any], result))


# Lock a cell while it runs, and meanwhile copy log messages into the cell's folder.


@contextmanager
def cell_lock(cell: Cell) -> Iterator[None]:
    """Lock a cell; the first rank does this for all ranks. Raises BusyError if another process has the lock."""
    lock = FileLock(cell.folder / ".lock", timeout=0)

    def take() -> None:
        storage.check_links(cell.folder)
        cell.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(f"{cell.key} is being run by another process.") from None

    collectives.on_first(take)
    try:
        with _logged(cell.folder / records.LOG):
            yield
    finally:
        lock.release()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """A context in which the first rank's log messages are also written to the file `path`."""
    if not collectives.is_first():
        yield
        return
    stream = path.open("a", encoding="utf-8")
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


# The model of a cell, and its forward passes.


def model_of(cell: Cell) -> LanguageModel:
    """The model of a cell; it stays loaded for later cells that use it. Raises what `Model.load` raises."""
    from pruning.engine.devices import exact

    exact()
    return cell.model.load()


def forward_of(model: LanguageModel) -> Forward:
    """The engine for a model's forward passes. Repeated passes over the same rows give equal losses."""
    from pruning.engine.devices import exact
    from pruning.engine.forward import Forward

    exact()
    return Forward(model)


# The costs of a model's units: their parameters, or their running time, which is measured once.


def cell_space(cell: Cell, model: LanguageModel) -> Space:
    """The space of a cell's masks; `model` is the cell's loaded model.

    Raises UnskippableError if the model's blocks cannot be divided into the cell's units. Raises InputError
    if the ratio cannot be reached, and OutOfReachError if the search would need too many losses.
    """
    removal = cell.removal
    chain = model.chain(removal.mask_unit)
    costs: Sequence[float] | None = None
    if not removal.counted:
        costs = chain.sizes() if removal.budget == "parameters" else _times(cell, model)
    space = removal.space(model.info.n_blocks, costs)
    cell.algo.evaluations(space)  # raises OutOfReachError
    return space


def _times(cell: Cell, model: LanguageModel) -> list[float]:
    """The seconds that each unit takes, from a file in `latency/`. If the file is missing, units are timed.

    All cells of a results folder use one measurement. So their masks can be compared, and a search that resumes on
    another device has the same costs as before.
    """
    from pruning.engine.dense_pass import unit_times
    from pruning.evaluation.speed import device_name
    from pruning.models.products import native_products

    shape, unit, here = cell.latency, cell.removal.mask_unit, device_name(model.module)
    what = {"model": cell.model.identity(), "unit": unit, **cell.model.placement()}
    what |= {"latency": dataclasses.asdict(shape), "revision": model.info.revision}
    path = cell.command.results / "latency" / f"{digest(what)}.json"

    def table() -> list[float]:
        lock = path.parent / ".locks" / path.name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # cells that start together use one measurement
            if not path.exists():
                with native_products(model.module):  # as in the programs that will run the pruned model
                    seconds = unit_times(model, unit, (shape.batch, shape.tokens), shape.repeats)
                storage.write_record(path, what | {"device": here, "seconds": seconds})
        kept = storage.read_json(path)
        if kept["device"] != here:
            log.warning("the units were timed on %s, and this is %s: see %s", kept["device"], here, path)
        return list(map(float, kept["seconds"]))

    return collectives.on_first(table)


# The interface of trackers, and a tracker that does nothing. Trackers only copy what the result files contain.


class Tracker(Protocol):
    """The interface of trackers. If a tracker's method raises an exception, the command only warns."""

    def start(self, results: Path) -> None:
        """Prepare the tracker; called once, before any cell runs."""
        ...

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Record the cells in these folders. A cell that is already recorded is not recorded again."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """The tracker that does nothing."""

    def start(self, results: Path) -> None:
        """Do nothing."""

    def record(self, results: Path, folders: Sequence[Path]) -> None:
        """Do nothing."""
