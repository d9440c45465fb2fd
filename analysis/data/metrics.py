"""Choose the metric that a figure shows: one metric by name, or the mean over the metrics of a kind.

A metric is named `ppl/<corpus>` or `acc/<task>`. Standard errors, `<metric>/stderr`, are not metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruning.core.metric_names import LABELS, error_of, metrics_among

from .errors import NothingToRead

COMMON = 0.9  # a metric enters the mean if at least this share of the measured cells has it
HELDOUT = "ppl/heldout"  # the held-out part of the embedded text
WORDS = {kind: LABELS[kind] for kind in ("ppl", "acc")}


@dataclass(frozen=True)
class Metric:
    """One or several recorded metrics of a kind (`ppl` or `acc`), shown as their arithmetic mean.

    The paper's tables also average perplexities arithmetically. If a cell lacks one of the metrics, its mean is
    NaN, because an average over fewer corpora or tasks would not be comparable.
    """

    kind: str
    names: tuple[str, ...]
    others: tuple[str, ...] = ()  # measured in too few cells to enter the mean

    @property
    def label(self) -> str:
        """The name for axes and titles."""
        sets = "corpora" if self.kind == "ppl" else "tasks"
        of_all = f" of {len(self.names) + len(self.others)}" if self.others else ""
        if len(self.names) == 1:
            only = f", 1{of_all} {sets}" if of_all else ""
            return f"{WORDS[self.kind]} ({self.names[0].partition('/')[2]}{only})"
        return f"mean {WORDS[self.kind]} ({len(self.names)}{of_all} {sets})"

    @property
    def sets(self) -> str:
        """The corpora or tasks, for notes."""
        return ", ".join(name.partition("/")[2] for name in self.names)

    def of(self, frame: pd.DataFrame, which: str = "pruned") -> pd.Series[Any]:
        """Values (cells,) of the pruned models; of the dense or healed ones if `which` is `dense` or `healed`.

        Accuracies are in percent.
        """
        columns = frame.reindex(columns=[f"{which}/{name}" for name in self.names]).astype(float)
        return columns.mean(axis=1, skipna=False) * (100 if self.kind == "acc" else 1)


def names(frame: pd.DataFrame, kind: str) -> tuple[str, ...]:
    """All metrics of a kind that some cell has, in alphabetical order. Recorded means are excluded."""
    columns = (str(c).removeprefix("pruned/") for c in frame if str(c).startswith(f"pruned/{kind}/"))
    single = (c for c in metrics_among(columns) if c != f"{kind}/mean")
    return tuple(sorted(c for c in single if frame[f"pruned/{c}"].notna().any()))


def measured(frame: pd.DataFrame) -> dict[str, Metric]:
    """The default metric of each kind that was measured."""
    return {kind: choose(frame, kind) for kind in WORDS if names(frame, kind)}


def choose(frame: pd.DataFrame, kind: str, name: str | None = None) -> Metric:
    """The metric `name`, with or without its prefix; by default, a mean over common metrics.

    This mean is over the metrics that nearly every cell has. Thus the means of most cells stay the same if a few
    cells were measured on more or fewer corpora or tasks. Cells without any metric of the kind are not counted. If no
    metric reaches the share COMMON, the mean is over all metrics. If no cell has all metrics of the mean, the metric
    that most cells have is chosen.
    Raises NothingToRead if the metric was not measured.
    """
    known = names(frame, kind)
    if not known:
        raise NothingToRead(f"no {WORDS[kind]} was measured in this study.")
    if name is None:
        has = frame[[f"pruned/{n}" for n in known]].dropna(how="all").notna().set_axis(known, axis="columns")
        shares = dict(zip(known, has.mean(), strict=True))
        common = tuple(n for n in known if shares[n] >= COMMON) or known
        if not has[[*common]].all(axis="columns").any():
            common = (max(known, key=lambda n: shares[n]),)
        return Metric(kind, common, tuple(n for n in known if n not in common))
    full = name if name.startswith(f"{kind}/") else f"{kind}/{name}"
    if full not in known:
        raise NothingToRead(f"no {WORDS[kind]} '{name}' in this study. Measured: {', '.join(known)}.")
    return Metric(kind, (full,))


def of_windows(frame: pd.DataFrame, name: str | None = None) -> Metric:
    """The perplexity whose windows masks are compared on: `name`, or by default `ppl/heldout`, or the default metric.

    Raises NothingToRead if it was not measured.
    """
    chosen = choose(frame, "ppl", name)
    return Metric("ppl", (HELDOUT,)) if name is None and HELDOUT in chosen.names else chosen


def standard_error(metric: Metric, frame: pd.DataFrame) -> float | None:
    """The median, over cells, of a metric's standard error; for accuracies in points. None if there are no errors."""
    columns = [error_of(f"pruned/{name}") for name in metric.names]
    if not set(columns) <= set(frame):
        return None
    squares = (frame[columns].astype(float) ** 2).sum(axis=1, skipna=False)
    error = float((squares**0.5).median()) / len(columns)
    return None if math.isnan(error) else error * (100 if metric.kind == "acc" else 1)
