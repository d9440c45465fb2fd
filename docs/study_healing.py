"""The tables on masks before and after repair and healing, from the archived study."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from docs.study_archives import TEXT, factor, study, table
from pruning.core.result import read_done

OBJECTIVES = ("block_influence", *TEXT)
STATES = ("pruned", "repaired", "healed")


def after_healing() -> str:
    """The perplexity of some masks relative to others, as they are, repaired, and healed. Paired by draw."""
    compared = [
        *((f"greedy : one_shot, {name}", (name, "greedy"), (name, "one_shot")) for name in TEXT),
        ("block_influence : divergence", ("block_influence",), ("divergence",)),
    ]
    rows = []
    for words, *both in compared:
        first, second = (log_states(*one) for one in both)
        rows.append([words, *(factor(first[state], second[state]) for state in STATES)])
    return table(["perplexity of", *STATES], rows)


def healed() -> str:
    """Held-out perplexity and accuracy of masks: pruned, repaired, and healed."""
    rows = []
    for objective in OBJECTIVES:
        for algo in ("one_shot", "greedy"):
            logs, points = log_states(objective, algo).mean(), states(objective, algo, "acc").mean()
            found = [f"{np.exp(logs[state]):.1f}, {100 * points[state]:.1f}" for state in STATES]
            rows.append([objective, algo, *found])
    return table(["pruned for", "search", *STATES], rows)


def log_states(objective: str, algo: str = "") -> pd.DataFrame:
    """The logarithm of the perplexity, one row for each draw; without a search, the mean over searches."""
    return states(objective, algo, "ppl").apply(np.log).groupby("draw").mean()


@cache
def states(objective: str, algo: str, kind: str) -> pd.DataFrame:
    """The mean metric of a kind, one row for each draw and search, and one column for each state."""
    own = study("study_healing", OBJECTIVES)
    cells = own.cells[(own.cells["objective"] == objective) & (own.cells["algo"].isin([algo]) | (algo == ""))]
    rows = []
    for (draw, _), pair in cells.groupby(["draw", "algo"]):
        folders = zip(pair["compensation"], pair["cell"], strict=True)
        of = {name: read_done(own.results / str(cell))["evaluation"] for name, cell in folders}
        measured = of["none"]["pruned"], of["linear"]["pruned"], of["none"]["healed"]
        means = [np.mean([values[name] for name in own.metrics[kind].names]) for values in measured]
        rows.append([draw, *means])
    return pd.DataFrame(rows, columns=["draw", *STATES]).set_index("draw")
