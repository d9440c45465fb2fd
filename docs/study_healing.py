"""The tables on masks before and after repair and healing, from the archived study."""

from __future__ import annotations

import numpy as np

from docs.marked_tables import table
from docs.study_archives import TEXT, ratio, study

OBJECTIVES = ("block_influence", *TEXT)
STATES = ("pruned", "repaired", "healed")


def after_healing() -> str:
    """The perplexity of some masks relative to others, as they are, repaired, and healed. Paired by draw."""
    found = study("study_healing", OBJECTIVES).relative
    rows = [
        [
            f"greedy : one_shot, {name}",
            *(ratio(found.searches, state, objective=name, algo="greedy") for state in STATES),
        ]
        for name in TEXT
    ]
    objectives = [ratio(found.objectives, state, objective="block_influence") for state in STATES]
    return table(["perplexity of", *STATES], [*rows, ["block_influence : divergence", *objectives]])


def healed() -> str:
    """Held-out perplexity and accuracy of masks: pruned, repaired, and healed."""
    states = study("study_healing", OBJECTIVES).states
    rows = []
    for objective in OBJECTIVES:
        for algo in ("one_shot", "greedy"):
            found = []
            for state in STATES:
                cells = states[states["state"].str.startswith(state)]
                cells = cells[(cells["objective"] == objective) & (cells["algo"] == algo)]
                found.append(f"{np.exp(np.log(cells['ppl']).mean()):.1f}, {cells['acc'].mean():.1f}")
            rows.append([objective, algo, *found])
    return table(["pruned for", "search", *STATES], rows)
