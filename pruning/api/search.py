"""Search for a mask, as a command-line cell does, and measure a mask's perplexity and accuracy."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any, TypeAlias

from pruning.algo import Algo, lazy
from pruning.api.calibration_data import Calibration, ItemList, check_ids, draw_samples, item_rows
from pruning.api.model import PrunableModel, check_settings, check_type, exclusive, list_of_texts, listed
from pruning.calibration import kinds_for
from pruning.calibration.samples import Samples
from pruning.calibration.text import SHORTEST, start_tokens
from pruning.core.errors import InputError, shown
from pruning.core.mask import Mask, Removal
from pruning.core.records import MarginsRecord, error_of, metrics_among
from pruning.core.scoring import NearTies, Racing, Score, plus_minus
from pruning.evaluation.corpora import perplexity, strided
from pruning.evaluation.heldout import item_accuracy
from pruning.evaluation.text_overlap import check_disjoint
from pruning.models.sublayers import find_chain
from pruning.objective import Calibrated, Objective
from pruning.runs.cell import forward_of
from pruning.runs.measurements import search_shown
from pruning.runs.prepare import Reader, check_evaluation
from pruning.search import driver
from pruning.search.decide import FloatLoss, certainty
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal


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
    max_evaluations: int | None = None,
    heldout: TextSets | None = None,
    progress: bool = True,
) -> SearchResult:
    """Search for the `k` blocks, or the fraction `ratio=0.2` of all blocks, whose removal raises the loss least.

    `calibration` is a list of texts, a list of items (question, choices, answer), the name of an option such as
    "pydoc", or samples that an earlier search has drawn. If it is None, the option that suits the objective is
    used. `objective` and `algo` are names of options, classes, or instances of classes. `unit` is "block",
    "sublayer" (attention and MLP separately), "attention" or "mlp"; unless it is "block", `ratio` is a fraction
    of the parameters. `samples` and `length` are the number and length of the drawn samples. The first
    `protect_first` and the last `protect_last` blocks are never removed. After `max_evaluations` masks, the
    search is stopped. `heldout` are the texts on which `SearchResult.measure` measures by default; they must
    not share text with the calibration. `progress=False` hides the progress bar.

    Before anything is computed, raises InputError if a value is wrong or another call uses the model. Raises
    OutOfReachError if the search would need too many evaluations, and LossError if a loss is NaN or infinite.
    """
    race, ties = racing or Racing(), near_ties or NearTies()
    for part in (race, ties):
        check_settings(type(part), {f.name: getattr(part, f.name) for f in fields(part)}, "setting")
        part.check()
    chosen_objective, chosen_algo = _built("objective", objective), _built("algo", algo)
    driver.check_limit(max_evaluations)
    removal = Removal(ratio, k, unit, first=protect_first, last=protect_last)
    removal.check()
    sizes = None if removal.counted else find_chain(model.module, removal.mask_unit).sizes()
    space = removal.space(model.n_blocks, sizes)
    most = chosen_algo.evaluations(space)  # raises OutOfReachError if the search needs too many evaluations
    asked = objective if isinstance(objective, str) else chosen_objective
    drawn = draw_samples(model, calibration, asked, samples=samples, length=length, seed=seed)
    if drawn.kind not in kinds_for(needs := chosen_objective.needs):
        raise InputError(
            f"the objective {type(chosen_objective).__name__} needs {needs}, and the calibration gives "
            f"{drawn.kind}: give a list of texts for text, a list of items for items, or calibration='both' for "
            "both."
        )
    lazy.warn_on(drawn.kind, chosen_algo)
    if heldout is not None:
        check_disjoint(drawn, draw_data(model, heldout), OTHER_DATA)

    losses = Calibrated(chosen_objective, forward_of(model.language_model), drawn)
    journal, floats = (Journal(None, space.n_blocks, space.unit) for _ in range(2))
    single = FloatLoss(losses.in_float32, floats) if losses.in_half else None
    problem = Problem(chosen_algo, space, seed, race, ties, max_evaluations, bounds=True)
    most = min(most, max_evaluations or most)
    title = f"{model.name} {type(chosen_algo).__name__}"
    try:
        with search_shown(title, most, hidden=not progress, unit=space.unit) as show:
            solution = solve(problem, losses, journal, show, single)
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
        heldout=heldout,
    )


def _built(group: str, chosen: Any) -> Any:
    """`chosen` itself or, if it is a class or an option's name, an instance of this class or option."""
    from pruning.config.app import build_option
    from pruning.config.groups import PACKAGES

    if isinstance(chosen, str):
        return build_option(group, [f"{group}={chosen}"])
    if isinstance(chosen, type):
        chosen = chosen()
    if not hasattr(chosen, PACKAGES[group][1]):
        raise InputError(f"{group}={shown(chosen)}: give the name of an option, or an instance of its class.")
    return chosen


# The result of a search, and its methods to run and measure the mask.

OTHER_DATA = "Measure on other data, or allow the overlap with measure(..., allow_overlap=True)."


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the mask, its loss, the dense model's loss, and how certain the choice is.

    `margins` has the runner-up and the ties, in the form of `result.json`. `scores` lists all scores in the
    order of their computation. `samples` are the calibration samples. Losses are in the unit of the
    objective; a lower loss is better. If there is only one sample, `standard_error` is None.
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
    heldout: TextSets | None = field(default=None, repr=False)

    @property
    def dropped(self) -> tuple[int, ...]:
        """The removed units, counted from 0: blocks, or sub-layers (`mask.names()` names them)."""
        return self.mask.dropped

    @property
    def ties(self) -> list[Mask]:
        """At most 100 masks of the same size that are not significantly worse than `mask` at level 0.05."""
        record = self.mask.to_json()
        return [Mask.from_json({**record, "dropped": listed}) for listed in self.margins["ties"]]

    @contextmanager
    def masked(self) -> Iterator[Any]:
        """A context in which the model runs without the dropped blocks; yields the transformers model."""
        with self.model.masked(self.mask) as module:
            yield module

    def measure(self, allow_overlap: bool = False, **settings: Any) -> Measurements:
        """Measure the mask and the dense model; `settings` are those of `measure_mask`.

        Without texts and items, the `heldout` texts of the search are used. If the data share text or items with the
        calibration samples, raises InputError unless `allow_overlap`.
        """
        if settings.get("texts") is None and settings.get("items") is None:
            settings["texts"] = self.heldout
        with self.model.evaluated_by("measure"):
            data = draw_data(self.model, **settings)
            if not allow_overlap:
                check_disjoint(self.samples, data, OTHER_DATA)
            return measured(self.model, self.mask, data)

    def __str__(self) -> str:
        return (
            f"{self.mask} removed: {' '.join(self.mask.names())}\n"
            f"loss {self.dense_loss:.4f} -> {self.loss:.4f} {plus_minus(self.standard_error)}; "
            f"{certainty(self.margins)}"
        )


# Measure perplexity on texts and accuracy on items, for the dense and for the pruned model.

TextSets: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
ItemSets: TypeAlias = ItemList | Mapping[str, ItemList]


@dataclass(frozen=True)
class Measurements:
    """Metrics of the dense and of the pruned model, by name: `ppl/NAME` and `acc/NAME`.

    `METRIC/stderr` is a metric's standard error over windows or items; a single window or item has none.
    """

    dense: dict[str, float]
    pruned: dict[str, float]

    def __str__(self) -> str:
        def shown(values: Mapping[str, float], name: str) -> str:
            error = values.get(error_of(name))
            return f"{values[name]:,.3f}" + ("" if error is None else f" ± {error:,.3f}")

        return "\n".join(
            f"{name:<20} {shown(self.dense, name):>18} -> {shown(self.pruned, name)}"
            for name in metrics_among(self.pruned)
        )


@exclusive
def measure_mask(
    model: PrunableModel,
    mask: Mask,
    *,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> Measurements:
    """Perplexity on texts and accuracy on items, of the dense model and of the model without the dropped blocks.

    `texts` and `items` are lists, or mappings from names to lists. Each text is cut into windows of `window` tokens
    without overlap; at most `limit` windows or items of each list are used. Accuracy is the share of items whose
    right answer has the highest mean log-likelihood per token among the choices.

    Raises InputError if there is nothing to measure, or if a list is malformed. `SearchResult.measure` also refuses
    data that share text or items with the calibration samples.
    """
    return measured(model, mask, draw_data(model, texts, items, window, limit))


def measured(model: PrunableModel, mask: Mask, data: Mapping[str, Samples]) -> Measurements:
    """The metrics of a mask and of the dense model on data that `draw_data` has drawn."""
    model.check_mask(mask)
    dense = Mask(model.n_blocks)
    forward = forward_of(model.language_model).beside([dense, mask])
    found = Measurements({}, {})
    for name, samples in data.items():
        measure = perplexity if samples.kind == "text" else item_accuracy
        found.dense.update(measure(name, forward, samples, dense).metrics)
        found.pruned.update(measure(name, forward, samples, mask).metrics)
    return found


def draw_data(
    model: PrunableModel,
    texts: TextSets | None = None,
    items: ItemSets | None = None,
    window: int = 1024,
    limit: int | None = None,
) -> dict[str, Samples]:
    """The samples of each metric. Raises InputError if there is nothing to measure, or if a list is malformed."""
    check_type("window", window, int)
    check_type("limit", limit, int | None)
    if window < SHORTEST:
        raise InputError(f"window={window} is too short: give at least {SHORTEST} tokens.")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give at least 1, or leave it out.")
    named_texts, named_items = _named(texts, "texts"), _named(items, "items")
    if not named_texts and not named_items:
        raise InputError("there is nothing to measure on: give texts=[...], items=[...], or both.")
    data: dict[str, Samples] = {}
    first = start_tokens(model.tokenizer)
    for name, members in named_texts.items():
        given = list_of_texts(members, "texts" if name == "texts" else f"texts['{name}']")
        ids = (model.tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in given)
        windows = (row for text in ids for row in strided(text, first, window, None))
        rows = tuple(islice(windows, None if limit is None else min(limit, sys.maxsize)))
        if not rows:
            raise InputError(f"the texts of '{name}' hold nothing to predict: give at least two tokens.")
        data[f"ppl/{name}"] = Samples("text", name, rows, 0)
    for name, pool in named_items.items():
        chosen = listed(pool, "items" if name == "items" else f"items['{name}']", "items")[:limit]
        data[f"acc/{name}"] = item_rows(model, chosen, len(chosen), 0, "measure_mask")
    check_ids(model, data)
    check_evaluation(data, Reader.of(model.name, model.module.config, model.tokenizer))
    return data


def _named(sets: Any, name: str) -> dict[str, Any]:
    """The lists of texts or items, by name. A plain list is named after its argument."""
    if sets is None or (isinstance(sets, Sized) and not len(sets)):
        return {}
    return {str(key): value for key, value in sets.items()} if isinstance(sets, Mapping) else {name: sets}
