"""Whether an objective rates a pruned model clearly worse, or clearly better, than the whole one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from .crossed import Trace
from .rules import LEVEL


def damages(cells: pd.DataFrame, traces: Mapping[str, Trace]) -> pd.DataFrame:
    """One row per cell: `objective`, `lower` (the pruned model's loss is lower), and `worse`.

    `worse` is True if the loss of the pruned model is clearly higher, False if it is clearly lower, and None if noise
    can explain the difference, or if the trace lacks the losses of samples. Losses are paired by sample (one-sided
    Student's t tests). A search chose the mask on these samples, which flatters the mask: so the p-value of a lower
    loss is multiplied by the number of scores that the search asked for.
    """
    rows = []
    columns = ("cell", "objective", "dropped", "asked", "loss", "dense_loss")
    for cell, objective, dropped, asked, loss, dense in zip(*(cells[c] for c in columns), strict=True):
        tests = 1.0 if pd.isna(asked) else max(1.0, float(asked))
        rows.append([objective, loss < dense, _worse(traces.get(str(cell), ()), dropped, tests)])
    return pd.DataFrame(rows, columns=["objective", "lower", "worse"], dtype=object)


def _worse(trace: Trace, dropped: tuple[int, ...], tests: float) -> bool | None:
    scores = {tuple(score["dropped"]): np.array(score["samples"], float) for score in trace}
    own, dense = scores.get(dropped), scores.get(())
    if own is None or dense is None or len(own) != len(dense) or len(own) < 2:
        return None
    differences = own - dense
    error = float(differences.std(ddof=1)) / len(own) ** 0.5
    if error == 0:
        return None
    t = float(differences.mean()) / error
    higher, lower = (float(stats.t.sf(side * t, len(own) - 1)) for side in (1, -1))
    return True if higher <= LEVEL else False if tests * lower <= LEVEL else None
