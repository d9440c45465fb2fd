"""How much masks of two draws, two seeds and different numbers of samples overlap, in the archived studies."""

from __future__ import annotations

import pandas as pd

from analysis.stats.frames import each
from docs.marked_tables import table
from docs.study_archives import ALL, MAIN, TEXT, corrected, overlap, study

NAMES = {"smollm2": "SmolLM2", "gemma3_270m": "Gemma 3"}
SEEDED = ("genetic", "bayesian")  # those of study_seeds


def draws() -> str:
    """The overlap of the masks of two draws for each objective and model."""
    own = [[overlap(study("study", (objective,), model=model)) for model in NAMES] for objective in ALL]
    return table(["objective", *NAMES.values()], [[name, *row] for name, row in zip(ALL, own, strict=True)])


def objectives() -> str:
    """The overlap of masks for perplexity and for divergence on the same draw, for each model."""
    own = {model: study("study", TEXT, model=model) for model in NAMES}
    rows = [[NAMES[model], overlap(cells, "objectives"), overlap(cells)] for model, cells in own.items()]
    return table(["model", "two objectives", "two draws"], rows)


def sizes() -> str:
    """The overlap of the masks of two draws by number of samples."""
    rows = [[name, *(corrected(row) for row in each(_sizes(name)))] for name in MAIN]
    return table(["objective", "8 windows, 16 items", "32, 64", "128, 256"], rows)


def _sizes(objective: str) -> pd.DataFrame:
    found = study("study_sizes", MAIN).sizes
    return found[found["objective"] == objective]


def seeds() -> str:
    """The overlap of masks of two seeds, and of two draws."""
    rows = []
    for algo in SEEDED:
        own = study("study_seeds", TEXT, (algo,))
        rows.append([algo, overlap(own, "seeds"), overlap(own, "draws")])
    return table(["search", "two seeds", "two draws"], rows)
