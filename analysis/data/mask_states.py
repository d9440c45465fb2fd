"""The held-out outcomes of masks in each of their states: pruned, repaired, or healed on a number of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pandas as pd

from ..stats.healings import PRUNED, comparable
from ..stats.removal import NO_COMPENSATION, column, uncompensated
from .metrics import Metric


def by_state(cells: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Finished cells, with one row for each state of a cell's mask, and the mean metric of each kind for all metrics.

    `state` says what was done to the mask. So `model` does not name the compensation here, and the states of one mask
    are in one stratum. Of healings, those with the most frequent settings count; tokens and seed may differ. Rows are
    in the order of the states: pruned, repaired, then healed by tokens.
    """
    repair = pd.Series(column(cells, "compensation", NO_COMPENSATION), cells.index)
    before = repair.map(lambda name: PRUNED.label if name == NO_COMPENSATION else f"repaired ({name})")
    tokens = _tokens(cells)
    healed = tokens[tokens > 0]
    names = [f"healed on {n:,} tokens" for n in healed]
    both = [
        name if first == PRUNED.label else f"{first}, {name}"
        for first, name in zip(before[healed.index], names, strict=True)
    ]
    parts = [_measured(cells, metrics, "pruned").assign(state=before, tokens=0)]
    if len(healed):
        after = _measured(cells.loc[healed.index], metrics, "healed")
        parts.append(after.assign(state=both, tokens=healed))
    table = pd.concat(parts)
    table = table.assign(
        repaired=repair[table.index] != NO_COMPENSATION, model=table["model"].map(uncompensated)
    )
    return table.sort_values(["tokens", "repaired"], kind="stable").reset_index(drop=True)


def _measured(cells: pd.DataFrame, metrics: Mapping[str, Metric], which: str) -> pd.DataFrame:
    means = {kind: metric.of(cells, which) for kind, metric in metrics.items()}
    return cells[[name for name in cells if "/" not in str(name)]].assign(**means)


def _tokens(cells: pd.DataFrame) -> pd.Series[int]:
    """The tokens of each cell's healing; 0 without one, or if its settings are not the most frequent ones."""
    settings = column(cells, "healing", None)
    kinds = [None if one is None else comparable(one) for one in settings]
    counts = Counter(kind for kind in kinds if kind is not None)
    usual = max(counts, key=lambda kind: (counts[kind], kind), default=None)
    tokens = [
        one["tokens"] if one is not None and kind == usual else 0
        for one, kind in zip(settings, kinds, strict=True)
    ]
    return pd.Series(tokens, cells.index, dtype=int)
