"""The data of a study, computed once and shared by the report's figures, tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core.result import Result, read_result
from pruning.core.trace import TraceLine

from ..data.cell_filter import Only
from ..data.item_answers import ItemAnswers
from ..data.load import done
from ..data.mask_states import by_state
from ..data.metrics import Metric, choose, measured
from ..data.routing import read_routing
from ..data.study import AskedStudy
from ..figures import fig8_stability, mask_overlaps, outcome_matrix, rank_agreement, variance_shares
from ..stats import crossed, one_shot, perplexity_comparisons, regret, sample_sizes
from ..stats.by_construction import exact_by_construction
from ..stats.damage import damages
from ..stats.estimates import Shares
from ..stats.noise_alone import NoiseAlone
from ..stats.overlap_difference import OverlapDifference, difference
from ..stats.perplexity_comparisons import Comparisons
from . import shown_cells
from .phrasing import count, listed

Frames = tuple[pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True)
class StudyData:
    """A study and its statistics. If the study lacks the data for a property, the property raises NothingToRead."""

    results: Path
    study: str | None
    only: Only = field(default_factory=dict)
    files: AskedStudy | None = None  # if the caller has read files already

    @cached_property
    def asked(self) -> AskedStudy:
        """The files of the study."""
        return self.files or AskedStudy(self.results, self.study, self.only)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All cells, including missing, failed and damaged cells."""
        return self.asked.frame

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The finished cells."""
        return done(self.frame)

    @cached_property
    def title(self) -> str:
        """The title line of every figure."""
        return self.asked.title

    @cached_property
    def records(self) -> dict[str, Result]:
        """The content of `result.json` of each cell that has this file, including failed cells."""
        known = self.frame.loc[self.frame["status"].isin(("done", "failed")), "cell"]
        results = {cell: read_result(self.results / cell) for cell in map(str, known)}
        return {cell: result for cell, result in results.items() if result is not None}

    @cached_property
    def shown(self) -> frozenset[str]:
        """The cells that have an entry of their own, in which everything about them is shown."""
        return shown_cells.shown(self.frame)

    @property
    def traces(self) -> dict[str, list[TraceLine]]:
        """The scored masks of each finished cell."""
        return self.asked.traces

    @property
    def lines(self) -> dict[str, list[TraceLine]]:
        """As `traces`, with the partial scores of races."""
        return self.asked.lines

    @property
    def damages(self) -> list[str]:
        """A text for each damaged file of the study."""
        _ = self.traces  # the journals count only after they have been read
        return self.asked.damages

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics mean perplexity and mean accuracy, each only if it was measured."""
        return measured(self.frame)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What pruning for each objective costs in mean perplexity and mean accuracy.

        Accuracies are negated, so that lower is better.
        """
        signed = {kind: m.of(self.cells) * (-1 if kind == "acc" else 1) for kind, m in self.metrics.items()}
        return crossed.matrix(self.cells, signed, ["ppl"])

    @cached_property
    def states(self) -> pd.DataFrame:
        """The finished cells with their mean metrics, one row for each state of a mask (see `mask_states`)."""
        return by_state(self.cells, self.metrics)

    @cached_property
    def relative(self) -> Comparisons:
        """Held-out perplexity of objectives, searches and states relative to others. Every frame can be empty."""
        return perplexity_comparisons.measure(self.states)

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """How masks and outcomes change with the number of samples; empty if the study has one number."""
        outcomes = {kind: metric.of(self.cells) for kind, metric in self.metrics.items()}
        return sample_sizes.by_size(self.cells, outcomes, ["ppl"])

    @cached_property
    def crossed(self) -> Frames:
        """The matrix of objectives and outcomes, and every cell with its regret."""
        return outcome_matrix.matrix_of(self.cells), self.regrets

    @cached_property
    def regrets(self) -> pd.DataFrame:
        """Every finished cell with its regret. Regret is the loss of its mask minus that of the best known mask."""
        return regret.best_known(self.cells, self.traces)

    @cached_property
    def agreements(self) -> pd.DataFrame:
        """Rank agreement of perplexity and accuracy, for every statistic."""
        return rank_agreement.table(self.frame, choose(self.frame, "ppl"), choose(self.frame, "acc"))

    @cached_property
    def answers(self) -> ItemAnswers:
        """The answers of the finished cells to every item of the accuracy."""
        return self.asked.answers(self.metrics["acc"].names if "acc" in self.metrics else ())

    @cached_property
    def shares(self) -> tuple[dict[str, Shares], pd.DataFrame]:
        """Shares of variance for each outcome, and the same shares in one table."""
        named = variance_shares.outcomes(self.cells, None, None)
        return variance_shares.measure(self.cells, named, self.answers)

    @cached_property
    def noise_alone(self) -> NoiseAlone:
        """How often noise alone would decide between calibration and search in accuracy."""
        return variance_shares.alone(self.cells, choose(self.frame, "acc").of(self.cells), self.answers)

    @cached_property
    def calibration_perplexity(self) -> Shares:
        """Shares of the rise of calibration perplexity, in the cells that minimise it."""
        return variance_shares.calibration_perplexity(self.cells)

    @cached_property
    def by_construction(self) -> frozenset[str]:
        """The objectives for which one-shot search is exact by construction."""
        return exact_by_construction(self.cells, self.traces)

    @cached_property
    def judged(self) -> StudyData:
        """The cells that verdicts are about: those of objectives for which one-shot is not exact by construction."""
        if not self.by_construction:
            return self
        return replace(self, files=self.asked.without(self.by_construction))

    @cached_property
    def left_out(self) -> str:
        """What `judged` leaves out, as a clause; empty if nothing."""
        if not self.by_construction:
            return ""
        cells = int(self.cells["objective"].isin(self.by_construction).sum())
        names = f"{listed(sorted(self.by_construction))} ({cells:,} of {count(len(self.cells), 'cell')})"
        return f"without {names}, for which one-shot is exact by construction"

    @cached_property
    def gains(self) -> pd.DataFrame:
        """For each problem, how much better than one-shot's mask the best known mask is, on the same samples."""
        return one_shot.gains(self.cells, self.traces)

    @cached_property
    def against_dense(self) -> pd.DataFrame:
        """Whether each cell's objective rates its mask clearly worse than the whole model, on the same samples."""
        return damages(self.cells, self.traces)

    def overlap_difference(
        self, first: str, second: str, objective: str | None = None
    ) -> OverlapDifference | None:
        """Compare the overlap of masks that differ in one factor with that of masks that differ in another."""
        cells = self.cells if objective is None else self.cells[self.cells["objective"] == objective]
        return difference(cells, first, second)

    @cached_property
    def across(self) -> pd.DataFrame:
        """For each outcome, the shares of model, ratio and their interactions in the sum of squares."""
        return variance_shares.across(self.cells, variance_shares.outcomes(self.cells, None, None))

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """The overlap of all pairs of masks whose cells differ in one factor."""
        return mask_overlaps.comparisons(self.frame)

    @cached_property
    def routing(self) -> list[dict[str, Any]]:
        """The records of routing between sets for tasks, if the study has any."""
        return read_routing(self.results, set(map(str, self.frame["cell"])))

    @cached_property
    def stability(self) -> Frames:
        """How often other samples would give another mask, and the agreement of masks for each number of samples."""
        return fig8_stability.measure(self.frame, self.traces)
