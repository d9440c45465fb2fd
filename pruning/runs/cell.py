"""A cell of the grid: its settings, its key, its folder and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.algo import Algo
from pruning.calibration import Calibration
from pruning.core.errors import ForeignError, PruningError
from pruning.core.hashing import digest
from pruning.core.result import NAME, Result, read_result
from pruning.engine.compensation import Compensation, NoCompensation
from pruning.evaluation import Evaluation
from pruning.healing.settings import NoHealing
from pruning.models.spec import Model
from pruning.objective import Objective
from pruning.runs.cell_identity import FORMAT, calibration_record, difference, settings_record, without_new
from pruning.runs.cell_key import key_in
from pruning.runs.cell_settings import ForwardSettings, Protect
from pruning.runs.removal import Latency, Removal
from pruning.search.near_ties import NearTies
from pruning.search.racing import Racing


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

    def arithmetic(self) -> dict[str, Any]:
        """What losses and measurements are computed with: `weights`, and whether blocks are compiled.

        Compiling only changes the rounding, so it is not part of a cell's key. But losses that are compared with each
        other must be rounded alike.
        """
        return self.weights() | ({"compile": True} if self.forward.compile else {})

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
                "calibration": calibration_record(self.calibration),
                "algo": without_new(settings_record(self.algo)),
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
        other = "cell" if result["cell"] != self.key else difference(result["config"], self.config)
        if other:
            raise ForeignError(
                f"{self.folder / NAME} is the result of another configuration ({other} differs): move the folder "
                f"{self.folder} away, or choose another with paths.results=DIR."
            )
        return result
