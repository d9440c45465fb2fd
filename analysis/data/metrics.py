"""Which of the recorded metrics a figure shows: one by name, or the mean over those of its kind.

A metric is named `ppl/<corpus>` or `acc/<task>`; its standard error, `<metric>/stderr`, is none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruning.core.metric_names import LABELS, metrics_among

from .errors import NothingToRead

COMMON = 0.9  # a metric that fewer of the measured cells have is in no mean
WORDS = {kind: LABELS[kind] for kind in ("ppl", "acc")}


@dataclass(frozen=True)
class Metric:
    """One or several recorded metrics of a kind (`ppl` or `acc`), shown as their arithmetic mean.

    The arithmetic mean of perplexities is what the paper's tables average. A cell that lacks one of the
    names has no mean: an average over fewer sets would not be comparable.
    """

    kind: str
    names: tuple[str, ...]
    others: tuple[str, ...] = ()  # measured too, but not of every cell

    @property
    def label(self) -> str:
        """For axes and titles."""
        sets = "corpora" if self.kind == "ppl" else "tasks"
        of_all = f" of {len(self.names) + len(self.others)}" if self.others else ""
        if len(self.names) == 1:
            only = f", 1{of_all} {sets}" if of_all else ""
            return f"{WORDS[self.kind]} ({self.names[0].partition('/')[2]}{only})"
        return f"mean {WORDS[self.kind]} ({len(self.names)}{of_all} {sets})"

    def of(self, frame: pd.DataFrame, which: str = "pruned") -> pd.Series[Any]:
        """The values of the pruned or the `dense` models; accuracies in percent."""
        columns = frame[[f"{which}/{name}" for name in self.names]].astype(float)
        return columns.mean(axis=1, skipna=False) * (100 if self.kind == "acc" else 1)


def names(frame: pd.DataFrame, kind: str) -> tuple[str, ...]:
    """All metrics of a kind that some cell has, in alphabetical order; a recorded mean of others is none."""
    columns = (str(c).removeprefix("pruned/") for c in frame if str(c).startswith(f"pruned/{kind}/"))
    own = (c for c in metrics_among(columns) if c != f"{kind}/mean")
    return tuple(sorted(c for c in own if frame[f"pruned/{c}"].notna().any()))


def measured(frame: pd.DataFrame) -> dict[str, Metric]:
    """What `choose` takes of each kind that was measured."""
    return {kind: choose(frame, kind) for kind in WORDS if names(frame, kind)}


def choose(frame: pd.DataFrame, kind: str, name: str | None = None) -> Metric:
    """The metric `name`, with or without its prefix, or the mean over all of the kind that (nearly) every cell has.

    So a few cells that were measured on more, or on less, than the others change no mean but their own. A cell for
    which nothing of the kind was measured does not count; where no metric is common, the mean is over all of them.
    """
    known = names(frame, kind)
    if not known:
        raise NothingToRead(f"no {WORDS[kind]} was measured in this study.")
    if name is None:
        having = frame[[f"pruned/{n}" for n in known]].dropna(how="all").notna().mean()
        common = tuple(n for n in known if having[f"pruned/{n}"] >= COMMON) or known
        return Metric(kind, common, tuple(n for n in known if n not in common))
    full = name if name.startswith(f"{kind}/") else f"{kind}/{name}"
    if full not in known:
        raise NothingToRead(f"no {WORDS[kind]} '{name}' in this study. Measured: {', '.join(known)}.")
    return Metric(kind, (full,))
