"""Settings of the compensations that replace removed runs by linear maps; `repair.py` measures the maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pruning.core.errors import InputError, unknown

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward

TOWARD = {"identity": 1.0, "zero": 0.0}


@dataclass(frozen=True)
class Linear:
    """What the unit before a removed run adds is multiplied by a matrix (D, D); see `pruning.engine.repair`.

    `ridge` are the values of the ridge, relative to the mean diagonal of M'M, among which the best is chosen on every
    `heldout`-th calibration sample. A large ridge moves the map towards the identity, or towards 0 (`toward`). If
    `sequential` is true, each map is measured on the model that is already pruned and repaired before it; otherwise
    all are measured on the dense model. The search always scores masks without maps.
    """

    search: bool = False
    ridge: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0])
    heldout: int = 4
    toward: str = "identity"
    sequential: bool = True
    form: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        if self.search:
            raise InputError(
                f"compensation.search=true is not possible with compensation={self.form}: a map belongs to one mask, "
                "so a search would need passes over the samples for every mask. Leave it false: the final mask is "
                "repaired."
            )
        if not self.ridge or not all(0 < one < math.inf for one in self.ridge):
            raise InputError(f"compensation.ridge={list(self.ridge)}: give one or more numbers above 0.")
        if self.heldout < 2:
            raise InputError(
                f"compensation.heldout={self.heldout}: choose 2 or more (4: every fourth sample)."
            )
        if self.toward not in TOWARD:
            raise unknown("compensation.toward", self.toward, TOWARD)

    def scales(self, forward: Forward, rows: Sequence[Row], unit: str = "block") -> None:
        """Return None, since no unit has a factor."""


@dataclass(frozen=True)
class Diagonal(Linear):
    """The same with a diagonal matrix: one factor for each dimension of the hidden state."""

    form: ClassVar[str] = "diagonal"
