"""Search a mask: `search_mask`, the same search that a cell of the command line runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from pruning.algo import Algo, lazy
from pruning.api.arguments import check_settings
from pruning.api.calibration_data import Calibration, draw_samples
from pruning.api.measures import Measurements, draw_data, measured
from pruning.api.model import PrunableModel, exclusive
from pruning.calibration import kinds_for
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError, shown
from pruning.core.mask import Mask, Removal
from pruning.core.records import MarginsRecord
from pruning.core.scoring import Score, plus_minus
from pruning.evaluation.text_overlap import check_disjoint
from pruning.models.sublayers import find_chain
from pruning.objective import Calibrated, Objective
from pruning.runs.cell import ForwardSettings
from pruning.runs.loaded_cell import forward_with
from pruning.runs.measurements import Progress
from pruning.search import driver
from pruning.search.choice import FloatLoss, NearTies, Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores


@exclusive
def search_mask(
    model: PrunableModel,
    calibration: Calibration = None,
    *,
    k: int | None = None,
    ratio: float | None = None,
    unit: str = "block",
    objective: str | Objective | type[Objective] = "perplexity",
    algo: str | Algo | type[Algo] = "greedy",
    samples: int | None = None,
    length: int | None = None,
    seed: int = 0,
    protect_first: int = 0,
    protect_last: int = 0,
    racing: Racing | None = None,
    near_ties: NearTies | None = None,
    forward: ForwardSettings | None = None,
    max_evaluations: int | None = None,
    progress: bool = True,
) -> SearchResult:
    """Search for the `k` blocks, or the fraction `ratio=0.2` of all blocks, whose removal raises the loss least.

    `calibration` is a list of texts, a list of items (question, choices, answer), the name of an option such as
    "pydoc", or samples that an earlier search has drawn. If it is None, the objective chooses the option.
    `objective` and `algo` are names of options, classes, or instances of classes. `unit` is "block", "sublayer" (for
    attention and MLP apart), "attention" or "mlp"; a ratio is then one of parameters. `samples` and `length` say how
    much of the data is drawn. The first `protect_first` and the last `protect_last` blocks are never removed. After
    `max_evaluations` masks, the search is stopped. `progress=False` hides the bar.

    If a value is wrong, or if another call uses the model, raises InputError before anything is computed. Raises
    OutOfReachError if the search would need far too many evaluations, and LossError if a loss is NaN or infinite.
    """
    race, ties, how = racing or Racing(), near_ties or NearTies(), forward or ForwardSettings()
    for part in (race, ties, how):
        check_settings(type(part), {f.name: getattr(part, f.name) for f in fields(part)}, "setting")
        part.check()
    chosen_objective, chosen_algo = _built("objective", objective), _built("algo", algo)
    driver.check_limit(max_evaluations)
    removal = Removal(ratio, k, unit, first=protect_first, last=protect_last)
    removal.check()
    sizes = None if removal.counted else find_chain(model.module, removal.mask_unit).sizes()
    space = removal.space(model.n_blocks, sizes)
    chosen_algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    asked = objective if isinstance(objective, str) else chosen_objective
    drawn = draw_samples(model, calibration, asked, samples=samples, length=length, seed=seed)
    if drawn.kind not in kinds_for(needs := chosen_objective.needs):
        raise InputError(
            f"the objective {type(chosen_objective).__name__} needs {needs}, and the calibration gives "
            f"{drawn.kind}: give a list of texts for text, a list of items for items, or calibration='both' for "
            "both."
        )
    lazy.warn_on(drawn.kind, chosen_algo)

    losses = Calibrated(chosen_objective, forward_with(how, model.language_model), drawn)
    journal = Journal(None, space.n_blocks, space.unit)
    single = (
        FloatLoss(losses.in_float32, Journal(None, space.n_blocks, space.unit)) if losses.in_half else None
    )
    problem = Problem(chosen_algo, space, seed, race, ties, max_evaluations)
    most = driver.evaluations(chosen_algo, space, max_evaluations)
    title = f"{model.name} {type(chosen_algo).__name__}"
    try:
        with Progress(title, most, hidden=not progress, unit=space.unit) as bar:
            solution = solve(problem, losses, KnownScores(journal), bar.update, single)
    finally:
        losses.forward.release()
    score = solution.score
    return SearchResult(
        model=model,
        mask=score.mask,
        loss=score.loss,
        dense_loss=solution.dense.loss,
        standard_error=losses.whole.estimate.stated_error(score.samples),
        stopped=solution.why,
        evaluations=solution.asked,
        seconds=solution.seconds,
        margins=solution.margins,
        scores=list(journal.scores.values()),
        samples=losses.samples,
    )


def _built(group: str, chosen: Any) -> Any:
    """The object for a config group: built from an option's name or from a class, or the instance that was given."""
    from pruning.config.app import build_named
    from pruning.config.groups import PACKAGES

    if isinstance(chosen, str):
        return build_named(group, chosen)
    if isinstance(chosen, type):
        chosen = chosen()
    if not hasattr(chosen, PACKAGES[group][1]):
        raise InputError(f"{group}={shown(chosen)}: give the name of an option, or an instance of its class.")
    return chosen


# What a search found, and what can be done with it.


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
