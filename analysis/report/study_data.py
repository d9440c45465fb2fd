"""The statistics of a study, each computed once, and functions that put them into the report's sentences."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pruning.core.records import Result, read_result

from ..data.archive import NothingToRead
from ..data.load import Metric, done, measured
from ..data.study import AskedStudy, by_state
from ..figures import fig5_variance_shares, fig8_stability
from ..figures.fig5_variance_shares import NO_SHARE, ratio_text
from ..figures.style import counted, number
from ..stats import crossed, perplexity_comparisons, regret
from ..stats.components import IntervalEstimate, Shares
from ..stats.estimands import Change, changes
from ..stats.perplexity_comparisons import Comparisons

T = TypeVar("T")
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class StudyData:
    """A study and its statistics. If the study lacks the data for a statistic, the property raises NothingToRead."""

    asked: AskedStudy

    @property
    def frame(self) -> pd.DataFrame:
        """All cells, including missing, failed and damaged cells."""
        return self.asked.frame

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The finished cells."""
        return done(self.frame)

    @cached_property
    def records(self) -> dict[str, Result]:
        """The content of `result.json` of each cell that has this file, including failed cells."""
        known = self.frame.loc[self.frame["status"].isin(("done", "failed")), "cell"]
        results = {cell: read_result(self.asked.results / cell) for cell in map(str, known)}
        return {cell: result for cell, result in results.items() if result is not None}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Mean perplexity and mean accuracy, each only if it was measured."""
        return measured(self.frame)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """How far each objective's mean perplexity and mean accuracy are from those of the best objective."""
        values = {kind: one.of(self.cells) for kind, one in self.metrics.items()}
        return crossed.matrix(self.cells, values, geometric=["ppl"], higher=["acc"])

    @cached_property
    def relative(self) -> Comparisons:
        """Held-out perplexity of objectives, searches and states, relative to a reference. Frames can be empty."""
        return perplexity_comparisons.measure(self.states)

    @cached_property
    def states(self) -> pd.DataFrame:
        """The finished cells with their mean metrics, one row for each state of a mask (see `by_state`)."""
        return by_state(self.cells, self.metrics)

    @cached_property
    def changes(self) -> list[Change]:
        """How many blocks another search, draw or objective changes, in the cells of `judged`."""
        cells, ppl = self.judged.cells, self.metrics.get("ppl")
        return changes(cells, None if ppl is None else np.log(ppl.of(cells)))

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Held-out perplexity divided by that of the unpruned model, in the cells of `judged`."""
        cells, ppl = self.judged.cells, self.metrics.get("ppl")
        over = {} if ppl is None else {"over": ppl.of(cells) / ppl.of(cells, "dense")}
        return crossed.matrix(cells, over, ["over"])

    @cached_property
    def regrets(self) -> pd.DataFrame:
        """Every finished cell with its regret."""
        return regret.best_known(self.cells, self.asked.journals.traces)

    @cached_property
    def gains(self) -> pd.DataFrame:
        """For each problem, the loss of one-shot's mask minus that of the best known mask, on the same samples."""
        return regret.gains(self.cells, self.asked.journals.traces)

    @property
    def shares(self) -> dict[str, Shares]:
        """The shares of variance of each outcome."""
        return fig5_variance_shares.shares_of(self.asked, None, None)[0]

    @cached_property
    def calibration_perplexity(self) -> Shares:
        """The shares of variance of the rise in log calibration perplexity, for the objective perplexity."""
        return fig5_variance_shares.calibration_perplexity(self.cells)

    @property
    def stability(self) -> pd.DataFrame:
        """For each finished cell, how often other samples would give another mask."""
        return fig8_stability.stability_of(self.asked)[0]

    @cached_property
    def by_construction(self) -> frozenset[str]:
        """The objectives for which one-shot is exact by construction, because losses add up over units."""
        return regret.exact_by_construction(self.cells, self.asked.journals.traces)

    @cached_property
    def judged(self) -> StudyData:
        """The study that verdicts are about: without the objectives for which one-shot is exact by construction."""
        if not self.by_construction:
            return self
        return StudyData(self.asked.without(self.by_construction))

    @property
    def left_out(self) -> str:
        """A clause that names what `judged` leaves out; empty if it leaves nothing out."""
        if not self.by_construction:
            return ""
        cells = int(self.cells["objective"].isin(self.by_construction).sum())
        names = f"{listed(sorted(self.by_construction))} ({cells:,} of {counted(len(self.cells), 'cell')})"
        return f"without {names}, for which one-shot is exact by construction"


def tried(measure: Callable[[StudyData], T], m: StudyData) -> T | None:
    """The value of `measure` for a study; None if the study lacks the data for it."""
    try:
        return measure(m)
    except NothingToRead:
        return None


# Sentences: templates filled with numbers. In a template, a blank line ends a sentence.


def say(part: str, **numbers: Any) -> list[str]:
    """The sentences of the template `sentences/PART.j2`, each beginning with a capital letter."""
    text = templates().get_template(f"sentences/{part}.j2").render(numbers)
    sentences = (" ".join(sentence.split()) for sentence in re.split(r"\n\s*\n", text))
    closed = (re.sub(r" ([;,.])(?= |$)", r"\1", sentence) for sentence in sentences if sentence)
    return [sentence[:1].upper() + sentence[1:] for sentence in closed]


@cache
def templates() -> Environment:
    """The environment of the templates. Values are escaped in pages, but not in sentences, which are plain text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (counted, listed, math.isnan, number, percent, percents, ratio_words)
    environment.globals.update({word.__name__: word for word in words})
    return environment


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


def mean_text(mean: Any) -> str:
    """A mean with its interval, if it has one."""
    return number(mean.mean) if math.isnan(mean.low) else with_interval(mean.mean, mean.low, mean.high)


def ratio_words(shares: Shares, name: str) -> str:
    """The ratio `name` of `shares` as text; without an upper end, its lower end and limits on search and interaction.

    An example is `above 45 (the search explains at most 0.3 percent, the interaction at most 2)`.
    """
    ratio: IntervalEstimate = getattr(shares, name)
    if not ratio.high > NO_SHARE:
        return ratio_text(ratio)
    ends = (100 * shares.parts[part].high for part in ("search", "interaction"))
    search, interaction = (f"{end:.1g}" if 0 < end < 1 else f"{end:.0f}" for end in ends)
    most = f"the search explains at most {search} percent, the interaction at most {interaction}"
    return f"{ratio_text(ratio)} ({most})"


def reasons(notes: Iterable[str]) -> str:
    """Distinct reasons with their counts, the most frequent first."""
    counts = Counter(note for note in notes if note)
    return "; ".join(f"{note} ({n} times)" if n > 1 else note for note, n in counts.most_common())
