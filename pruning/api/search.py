"""Search a mask: `search_mask`, the same search that a cell of the command line runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pruning.algo import Algo, lazy
from pruning.api.arguments import check_settings, check_types
from pruning.api.model import PrunableModel, exclusive
from pruning.api.samples import Calibration, Draw, draw_samples
from pruning.api.search_result import SearchResult
from pruning.calibration import kinds_for
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError, shown
from pruning.objective import Calibrated, Objective
from pruning.runs.cell_model import forward_with
from pruning.runs.cell_settings import ForwardSettings
from pruning.runs.check_data import Reader, check_calibration
from pruning.runs.progress import Progress
from pruning.runs.removal import Removal
from pruning.search import budget
from pruning.search.driver import Problem, Solution, solve
from pruning.search.journal import Journal, KnownScores
from pruning.search.near_ties import FloatLoss, NearTies
from pruning.search.racing import Racing


@exclusive
def search_mask(
    model: PrunableModel,
    calibration: Calibration = None,
    *,
    k: int | None = None,
    objective: str | Objective | type[Objective] = "perplexity",
    algo: str | Algo | type[Algo] = "greedy",
    **settings: Any,
) -> SearchResult:
    """Search for the `k` blocks, or the fraction `ratio=0.2` of all blocks, whose removal raises the loss least.

    `calibration` is a list of texts, a list of items (question, choices, answer), the name of an option such as
    "pydoc", or samples that an earlier search has drawn. If it is None, the objective chooses the option.
    `objective` and `algo` are names of options, classes, or instances of classes. Settings: `ratio`, `unit` ("block",
    "sublayer" for attention and MLP apart, "attention" or "mlp"; a ratio is then one of parameters), `samples` and
    `length` (how much of the data is drawn), `seed`, `protect_first` and `protect_last` (how many of the first and of
    the last blocks are never removed), `racing` (a `Racing`), `near_ties` (a `NearTies`), `forward` (a
    `ForwardSettings`), `progress` (False hides the bar).

    If a value is wrong, or if another call uses the model, raises InputError before anything is computed. Raises
    OutOfReachError if the search would need far too many evaluations, and LossError if a loss is NaN or infinite.
    """
    check_settings(Settings, settings, "setting of search_mask")
    options = Settings(**settings)
    for part in (options, options.forward, options.racing, options.near_ties):
        check_types(part)
    chosen_objective, chosen_algo = _built("objective", objective), _built("algo", algo)
    budget.check_budget(chosen_algo)
    options.forward.check()
    options.racing.check()
    options.near_ties.check()
    removal = Removal(options.ratio, k, options.unit, first=options.protect_first, last=options.protect_last)
    removal.check()
    space = removal.space(model.n_blocks, None if removal.counted else _sizes(model, removal.mask_unit))
    chosen_algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    draw = Draw(options.samples, options.length, options.seed)
    samples = draw_samples(
        model, calibration, draw, objective if isinstance(objective, str) else chosen_objective
    )
    _check_kind(chosen_objective, samples)
    lazy.warn_on(samples.kind, chosen_algo)
    check_calibration(samples, Reader.of(model.name, model.module.config, model.tokenizer), "search_mask")
    losses = Calibrated(chosen_objective, forward_with(options.forward, model.language_model), samples)
    journal = Journal(None, space.n_blocks, space.unit)
    problem = Problem(chosen_algo, space, options.seed, options.racing, options.near_ties)
    try:
        solution = _search(problem, losses, journal, options.progress)
    finally:
        losses.forward.release()
    return _result(model, solution, losses, journal)


@dataclass(frozen=True)
class Settings:
    """The less used settings of a search, with their defaults."""

    ratio: float | None = None
    samples: int | None = None
    length: int | None = None
    seed: int = 0
    unit: str = "block"
    protect_first: int = 0
    protect_last: int = 0
    racing: Racing = field(default_factory=Racing)
    near_ties: NearTies = field(default_factory=NearTies)
    forward: ForwardSettings = field(default_factory=ForwardSettings)
    progress: bool = True


def _sizes(model: PrunableModel, unit: str) -> list[int]:
    """The number of parameters of each unit."""
    from pruning.models.units import find_chain

    return find_chain(model.module, unit).sizes()


def _search(problem: Problem, losses: Calibrated, journal: Journal, shown: bool) -> Solution:
    """Run the search, with a progress bar if `shown` is true."""
    most = budget.evaluations(problem.algo, problem.space)
    title = f"{losses.forward.model.info.name} {type(problem.algo).__name__}"
    with Progress(title, most, hidden=not shown, unit=problem.space.unit) as progress:
        empty = Journal(None, problem.space.n_blocks, problem.space.unit)
        single = FloatLoss(losses.in_float32, empty) if losses.in_half else None
        return solve(problem, losses, KnownScores(journal), progress.update, single)


def _result(model: PrunableModel, solution: Solution, losses: Calibrated, journal: Journal) -> SearchResult:
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
    from pruning.config.groups import PACKAGES
    from pruning.hydra_app.build_option import build_named

    if isinstance(chosen, str):
        return build_named(group, chosen)
    if isinstance(chosen, type):
        chosen = chosen()
    if not hasattr(chosen, PACKAGES[group][1]):
        raise InputError(f"{group}={shown(chosen)}: give the name of an option, or an instance of its class.")
    return chosen


def _check_kind(objective: Objective, samples: Samples) -> None:
    needs = objective.needs
    if samples.kind not in kinds_for(needs):
        raise InputError(
            f"the objective {type(objective).__name__} needs {needs}, and the calibration gives {samples.kind}: "
            "give a list of texts for text, a list of items for items, or calibration='both' for both."
        )
