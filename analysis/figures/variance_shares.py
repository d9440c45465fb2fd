"""The numbers of figure 5: shares of variance of four outcomes, with intervals and permutation p-values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.metrics import choose
from ..stats import components, variance
from ..stats.agreement import controlled
from ..stats.between import between
from ..stats.estimates import IntervalEstimate, Shares
from ..stats.grid import STRATUM
from ..stats.search_means import rivals

LOSS = "calibration loss"
MASKS = "masks"
WITHIN = {MASKS: ("model",), LOSS: ("objective",)}


def outcomes(frame: pd.DataFrame, perplexity: str | None, accuracy: str | None) -> dict[str, Any]:
    """For each outcome label: one value per cell (None if the outcome is the mask), and the columns of its strata."""
    ppl, acc = choose(frame, "ppl", perplexity), choose(frame, "acc", accuracy)
    return {
        MASKS: (None, STRATUM),
        LOSS: (frame["loss"] - frame["dense_loss"], [*STRATUM, "objective"]),
        f"log {ppl.label}": (np.log(ppl.of(frame)), STRATUM),
        acc.label: (acc.of(frame), STRATUM),
    }


def measure(frame: pd.DataFrame, named: dict[str, Any]) -> tuple[dict[str, Shares], pd.DataFrame]:
    """The shares of each outcome, and one table of all numbers. The table has permutation p-values with their q."""
    by_outcome, records = {}, list[dict[Any, Any]]()
    for label, (values, by) in named.items():
        use, known = _used(frame, values)
        of = variance.outcome(use, known, by)
        shares = components.shares(use, of, by)
        by_outcome[label] = shares
        tested = variance.table(use, of, by)
        merged = tested.rename(columns={"share": "ss_share", "note": "p_note"})
        merged = merged.merge(shares.sources.drop(columns="df"), on="source", how="left")
        both = _totals(shares).to_dict("records") + merged.to_dict("records")
        records += [{"outcome": label, **record, "note": shares.note} for record in both]
    table = pd.DataFrame(records)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high"]
    return by_outcome, table[[*first, *(c for c in table if c not in first)]]


def _used(
    frame: pd.DataFrame, values: pd.Series[float] | None
) -> tuple[pd.DataFrame, NDArray[np.float64] | None]:
    """The cells that have a value, and these values (None if the outcome is the mask).

    Cells of the reference search are left out.
    """
    use = rivals(frame)
    if values is None:
        return use.reset_index(drop=True), None
    known = values.loc[use.index].dropna()
    return use.loc[known.index].reset_index(drop=True), np.asarray(known, np.float64)


def across(frame: pd.DataFrame, named: dict[str, Any]) -> pd.DataFrame:
    """Shares of the sum of squares for model, ratio and their interactions.

    q controls the false discovery rate over all tests. Masks of different models are not compared,
    because no distance between such masks is defined. For the same reason, losses of different objectives are not
    compared.
    """
    parts = []
    for label, (values, _) in named.items():
        use, known = _used(frame, values)
        within = WITHIN.get(label, ())
        sources = between(use, known, within)
        undefined = sources["source"].map(lambda name, w=within: any(column in name for column in w))
        sources.loc[undefined, "note"] = f"not defined: compared within one {' and '.join(within)} only"
        parts.append(sources.assign(outcome=label))
    table = pd.concat(parts, ignore_index=True)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high", "p", "q"]
    return table[[*first, *(c for c in table if c not in first)]]


def _totals(shares: Shares) -> pd.DataFrame:
    """One row for each of the three parts and the two ratios."""
    rows: list[tuple[str, IntervalEstimate]] = list(shares.parts.items())
    rows += [("ratio calibration : search", shares.ratio), ("ratio with interaction", shares.total_ratio)]
    return pd.DataFrame(
        [[n, e.value, e.low, e.high] for n, e in rows], columns=["source", "share", "low", "high"]
    )
