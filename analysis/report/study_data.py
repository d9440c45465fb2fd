"""The data of a study, computed once and shared by the report's figures, tables and sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core.records import Result, read_result
from pruning.core.scoring import TraceLine

from ..data.load import Metric, Only, choose, done, measured
from ..data.study import AskedStudy, ItemAnswers, by_state, read_routing
from ..figures import fig2_ranks, fig4_overlap, fig5_variance_shares, fig6_crossed, fig8_stability
from ..figures.style import number
from ..stats import crossed, perplexity_comparisons, regret
from ..stats import stability as stability_module
from ..stats.components import Shares
from ..stats.grid import CONFIGURATION, STRATUM
from ..stats.mask_overlap import OverlapDifference, difference
from ..stats.perplexity_comparisons import Comparisons
from ..stats.regret import exact_by_construction
from ..stats.same_samples import damages
from ..stats.simulated import NoiseAlone

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
        return shown_cells(self.frame)

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
        return stability_module.by_size(self.cells, outcomes, ["ppl"])

    @cached_property
    def crossed(self) -> Frames:
        """The matrix of objectives and outcomes, and every cell with its regret."""
        return fig6_crossed.matrix_of(self.cells), self.regrets

    @cached_property
    def regrets(self) -> pd.DataFrame:
        """Every finished cell with its regret. Regret is the loss of its mask minus that of the best known mask."""
        return regret.best_known(self.cells, self.traces)

    @cached_property
    def agreements(self) -> pd.DataFrame:
        """Rank agreement of perplexity and accuracy, for every statistic."""
        return fig2_ranks.table(self.frame, choose(self.frame, "ppl"), choose(self.frame, "acc"))

    @cached_property
    def answers(self) -> ItemAnswers:
        """The answers of the finished cells to every item of the accuracy."""
        return self.asked.answers(self.metrics["acc"].names if "acc" in self.metrics else ())

    @cached_property
    def shares(self) -> tuple[dict[str, Shares], pd.DataFrame]:
        """Shares of variance for each outcome, and the same shares in one table."""
        named = fig5_variance_shares.outcomes(self.cells, None, None)
        return fig5_variance_shares.measure(self.cells, named, self.answers)

    @cached_property
    def noise_alone(self) -> NoiseAlone:
        """How often noise alone would decide between calibration and search in accuracy."""
        return fig5_variance_shares.alone(self.cells, choose(self.frame, "acc").of(self.cells), self.answers)

    @cached_property
    def calibration_perplexity(self) -> Shares:
        """Shares of the rise of calibration perplexity, in the cells that minimise it."""
        return fig5_variance_shares.calibration_perplexity(self.cells)

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
        return regret.gains(self.cells, self.traces)

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
        return fig5_variance_shares.across(self.cells, fig5_variance_shares.outcomes(self.cells, None, None))

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """The overlap of all pairs of masks whose cells differ in one factor."""
        return fig4_overlap.comparisons(self.frame)

    @cached_property
    def routing(self) -> list[dict[str, Any]]:
        """The records of routing between sets for tasks, if the study has any."""
        return read_routing(self.results, set(map(str, self.frame["cell"])))

    @cached_property
    def stability(self) -> Frames:
        """How often other samples would give another mask, and the agreement of masks for each number of samples."""
        return fig8_stability.measure(self.frame, self.traces)


# Which cells the page shows in full. The table has every cell, but a browser bears only so many whole entries.

MOST = 1000  # entries of a page: about 10 MB


def shown_cells(frame: pd.DataFrame) -> frozenset[str]:
    """The names of at most MOST cells: first those that are not finished, then the first draws of every search."""
    number = frame.groupby([*STRATUM, *CONFIGURATION, "algo"], dropna=False).cumcount()
    order = frame.assign(finished=frame["status"] == "done", number=number)
    chosen = order.sort_values(["finished", "number"], kind="stable").head(MOST)
    return frozenset(map(str, chosen["cell"]))


def left_out(frame: pd.DataFrame) -> str:
    """What the page leaves out; empty if it shows every cell in full."""
    if len(frame) <= MOST:
        return ""
    return (
        f"Below, {MOST:,} of the {len(frame):,} cells are shown in full: first those that are not finished, then the "
        "first draws of every search. For a page of fewer cells, which shows all of them, add --only to the command, "
        "as in --only seed=0,1."
    )


# Functions that write the numbers and lists in the report's sentences.


def count(n: int, noun: str) -> str:
    """A number and its noun, as in `1 cell` or `1,200 cells`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    every = list(words)
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else "".join(every)


def percent(share: float) -> str:
    """A share in whole percent, with a minus sign if it is negative."""
    return "–" if math.isnan(share) else f"{100 * share:.0f}".replace("-0", "0").replace("-", "−")  # noqa: RUF001


def percents(value: float, low: float, high: float) -> str:
    """A share with its interval: `62 percent (50 to 70)`, or `62 percent` if there is no interval."""
    interval = "" if math.isnan(low) else f" ({percent(low)} to {percent(high)})"
    return f"{percent(value)} percent{interval}"


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval: `8.96 (3.16 to 25.4)`, or `8.96 (no interval)`."""
    interval = "no interval" if math.isnan(low) else f"{number(low)} to {number(high)}"
    return f"{number(value)} ({interval})"


def reasons(notes: Iterable[str]) -> str:
    """Distinct reasons with their counts, the most frequent first."""
    counts = Counter(note for note in notes if note)
    return "; ".join(f"{note} ({n} times)" if n > 1 else note for note, n in counts.most_common())


def sentence(parts: Sequence[str]) -> str:
    """Clauses joined by semicolons, with a capital letter and a full stop."""
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


# The three verdicts on a statement, and when an interval decides between them.

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "inconclusive"


def of(decided: bool | None) -> str:
    """The verdict of a rule in `stats.rules`."""
    return OPEN if decided is None else HOLDS if decided else FAILS


def judged(low: float, high: float, limit: float) -> str:
    """Whether a quantity is above `limit`, given the ends of its interval. If the interval contains it: OPEN."""
    return HOLDS if low > limit else FAILS if high < limit else OPEN
