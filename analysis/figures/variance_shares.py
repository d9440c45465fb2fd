"""The numbers of figure 5: shares of variance of four outcomes, with intervals and permutation p-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..data.errors import NothingToRead
from ..data.item_answers import ItemAnswers
from ..data.metrics import choose, names
from ..stats import components, variance
from ..stats.agreement import controlled
from ..stats.between import between
from ..stats.estimates import IntervalEstimate, Shares
from ..stats.grid import STRATUM
from ..stats.item_noise import item_noise
from ..stats.noise_alone import NoiseAlone, noise_alone
from ..stats.removal import bare
from ..stats.search_means import rivals
from .style import number

NO_SHARE = 1e9  # a share is 0 if another one is so many times as large
LOSS = "calibration loss"
MASKS = "masks"
UNKNOWN = ItemAnswers(note="the answers to single items were not asked for")
WITHIN = {MASKS: ("model",), LOSS: ("objective",)}


def outcomes(frame: pd.DataFrame, perplexity: str | None, accuracy: str | None) -> dict[str, Any]:
    """For each outcome label: one value per cell (None if the outcome is the mask), and the columns of its strata.

    Perplexity and accuracy are outcomes only if they were measured. Raises NothingToRead if a named one was not.
    """
    known: dict[str, Any] = {
        MASKS: (None, STRATUM),
        LOSS: (frame["loss"] - frame["dense_loss"], [*STRATUM, "objective"]),
    }
    if perplexity or names(frame, "ppl"):
        ppl = choose(frame, "ppl", perplexity)
        known[f"log {ppl.label}"] = (np.log(ppl.of(frame)), STRATUM)
    if accuracy or names(frame, "acc"):
        acc = choose(frame, "acc", accuracy)
        known[acc.label] = (acc.of(frame), STRATUM)
    return known


def measure(
    frame: pd.DataFrame, named: dict[str, Any], answers: ItemAnswers = UNKNOWN
) -> tuple[dict[str, Shares], pd.DataFrame]:
    """The shares of each outcome, and one table of all numbers. The table has permutation p-values with their q.

    `answers` are those of the frame's cells, row by row. If there are any, the noise of the items is subtracted from
    the accuracy's sums of squares.
    """
    by_outcome, records = {}, list[dict[Any, Any]]()
    for label, (values, by) in named.items():
        use, known, rows = _used(frame, values)
        of = variance.outcome(use, known, by)
        shares = _shares(use, known, by, answers.take(rows) if accuracy(label) else UNKNOWN)
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


def accuracy(label: str) -> bool:
    """Whether an outcome is an accuracy."""
    return label not in (MASKS, LOSS) and not label.startswith("log ")


def _shares(
    use: pd.DataFrame, known: NDArray[np.float64] | None, by: Sequence[str], answers: ItemAnswers
) -> Shares:
    items = item_noise(answers.tasks) if answers.tasks else None
    return components.shares(use, variance.plain(use, known, by), by, items=items)


def calibration_perplexity(frame: pd.DataFrame) -> Shares:
    """Shares of the logarithm of calibration perplexity above the dense model's, in the cells pruned for it.

    Data differ in perplexity before anything is removed, so only the rise says what removal does. Raises
    NothingToRead if no cell minimises perplexity.
    """
    cells = frame[frame["objective"] == "perplexity"]
    if cells.empty:
        raise NothingToRead("no cell was pruned for perplexity.")
    use, known, _ = _used(cells, cells["loss"] - cells["dense_loss"])
    return components.shares(use, variance.plain(use, known))


def alone(frame: pd.DataFrame, values: pd.Series[float], answers: ItemAnswers) -> NoiseAlone:
    """How often noise alone would decide whether calibration or search matters more for an accuracy."""
    use, _, rows = _used(frame, values)
    return noise_alone(use, answers.take(rows).tasks or None)


def _used(
    frame: pd.DataFrame, values: pd.Series[float] | None
) -> tuple[pd.DataFrame, NDArray[np.float64] | None, NDArray[np.int64]]:
    """The cells that have a value, these values (None if the outcome is the mask), and the rows of these cells.

    Cells of the reference search are left out.
    """
    numbered = pd.Series(np.arange(len(frame)), index=frame.index)
    use = rivals(frame)
    known = None if values is None else values.loc[use.index].dropna()
    use = use if known is None else use.loc[known.index]
    rows = numbered.loc[use.index].to_numpy().astype(np.int64)
    return use.reset_index(drop=True), None if known is None else np.asarray(known, np.float64), rows


def across(frame: pd.DataFrame, named: dict[str, Any]) -> pd.DataFrame:
    """Shares of the sum of squares for model, ratio and their interactions.

    q controls the false discovery rate over all tests. Masks of different models are not compared,
    because no distance between such masks is defined. For the same reason, losses of different objectives are not
    compared. Cells with other units, budgets or compensations are never compared: each kind counts by itself.
    """
    kinds = frame["model"].map(bare)
    frame = frame.assign(
        model=kinds, removal=[m.removeprefix(k) for m, k in zip(frame["model"], kinds, strict=True)]
    )
    parts = []
    for label, (values, _) in named.items():
        use, known, _ = _used(frame, values)
        within = WITHIN.get(label, ())
        sources = between(use, known, (*within, "removal"))
        undefined = sources["source"].map(lambda name, w=within: any(column in name for column in w))
        sources.loc[undefined, "note"] = f"not defined: compared within one {' and '.join(within)} only"
        parts.append(sources.assign(outcome=label))
    table = pd.concat(parts, ignore_index=True)
    table["q"] = controlled(list(table["p"]))
    first = ["outcome", "source", "share", "low", "high", "p", "q"]
    return table[[*first, *(c for c in table if c not in first)]]


def _totals(shares: Shares) -> pd.DataFrame:
    """One row for each of the three parts and the four ratios."""
    rows: list[tuple[str, IntervalEstimate]] = list(shares.parts.items())
    rows += [
        ("calibration : search", shares.total_ratio),
        ("objective : search", shares.objective_ratio),
        ("objective : draw", shares.objective_draw),
        ("calibration : search, without interaction", shares.ratio),
    ]
    return pd.DataFrame(
        [[n, e.value, e.low, e.high] for n, e in rows], columns=["source", "share", "low", "high"]
    )


def unbounded(ratio: IntervalEstimate) -> bool:
    """Whether the interval of a ratio has no upper end, up to the rounding of a share that is 0."""
    return ratio.high > NO_SHARE


def ratio_text(ratio: IntervalEstimate) -> str:
    """A ratio with its interval, for a table in which the shares are beside it (in a sentence: `ratio_words`).

    Without an upper end, only the lower end is shown; no ratio is infinite. If the second share is 0 in all
    resamples, up to the rounding of numbers, there is no ratio.
    """
    if ratio.low > NO_SHARE or (np.isnan(ratio.low) and ratio.value > NO_SHARE):
        return "no ratio"
    if np.isnan(ratio.low):
        return number(ratio.value)
    if unbounded(ratio):
        if ratio.low == 1:  # neither side may explain anything, so only the interaction is left on both
            return "at least 1"
        return f"above {number(ratio.low)}" if ratio.low > 0 else "not determined"
    return f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"
