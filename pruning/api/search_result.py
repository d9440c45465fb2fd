"""What a search found, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruning.api.model import PrunableModel
from pruning.calibration.samples import Samples
from pruning.core.estimate import plus_minus
from pruning.core.margins_record import MarginsRecord
from pruning.core.mask import Mask
from pruning.core.score import Score
from pruning.evaluation.overlap import check_disjoint

if TYPE_CHECKING:
    from pruning.api.measure import Measurements


@dataclass(frozen=True)
class SearchResult:
    """What a search found: the mask, its loss, the dense model's loss, and how certain the choice is.

    `margins` has the runner-up and the ties, in the form of `result.json`; `scores` lists all scores in the order in
    which they were computed; `samples` are the calibration samples. Losses are in the unit of the objective;
    a lower loss is better. `standard_error` is None if there is one sample only.
    """

    model: PrunableModel
    mask: Mask
    loss: float
    dense_loss: float
    standard_error: float | None
    stopped: str
    evaluations: float
    seconds: float
    margins: MarginsRecord
    scores: list[Score] = field(repr=False)
    samples: Samples = field(repr=False)

    @property
    def dropped(self) -> tuple[int, ...]:
        """The removed units, counted from 0: blocks, or sub-layers (`mask.names()` names them)."""
        return self.mask.dropped

    @property
    def ties(self) -> list[Mask]:
        """Masks that drop as much as `mask` and are not significantly worse at level 0.05; at most 100."""
        record = self.mask.to_json()
        return [Mask.from_json({**record, "dropped": listed}) for listed in self.margins["ties"]]

    @contextmanager
    def masked(self) -> Iterator[Any]:
        """Within this context, the model runs without the dropped blocks; yields the transformers model."""
        with self.model.masked(self.mask) as module:
            yield module

    def measure(self, **settings: Any) -> Measurements:
        """Measure the mask and the dense model; `settings` are those of `measure_mask`.

        Raises InputError if the data share text or items with the calibration samples.
        """
        from pruning.api.measure import draw_data, measured

        with self.model.evaluated_by("measure"):
            data = draw_data(self.model, **settings)
            check_disjoint(self.samples, data)
            return measured(self.model, self.mask, data)

    def __str__(self) -> str:
        runner_up = self.margins["runner_up"]
        nearest = (
            "no other mask of this size was scored"
            if runner_up is None
            else f"runner-up {runner_up['dropped']} at {runner_up['difference']:+.4f} "
            f"{plus_minus(runner_up['standard_error'])}, {self.margins['tied']} of {self.margins['compared']} tied"
        )
        return (
            f"{self.mask} removed: {' '.join(self.mask.names())}\n"
            f"loss {self.dense_loss:.4f} -> {self.loss:.4f} {plus_minus(self.standard_error)}; {nearest}"
        )
