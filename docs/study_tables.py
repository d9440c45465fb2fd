"""The tables in docs/study_tables.md, from the archived studies beside the main one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from analysis.figures.style import ordered
from analysis.report.study_data import StudyData
from docs import study_shares
from docs.study_archives import (
    MAIN,
    ROOT,
    TEXT,
    factor,
    factor_of_other_draws,
    log_perplexity,
    overlap,
    study,
    table,
)
from pruning.core.result import read_done

DATA = {"items of ARC-Easy": "arc_easy_train", "labels of Commonsense 170k": "commonsense170k"}
SEEDED = ("genetic", "bayesian")  # those of study_seeds
HEALED = ("block_influence", *TEXT)  # the objectives of study_healing
STATES = ("pruned", "repaired", "healed")
PAGE = ROOT / "docs" / "study_tables.md"


def gains() -> str:
    """Held-out perplexity of each search relative to one-shot, paired by draw."""
    logs = [log_perplexity(study("study", (objective,))) for objective in MAIN]
    algos = [algo for algo in ordered(logs[0].columns) if algo != "one_shot"]
    rows = [[algo, *(factor(own[algo], own["one_shot"]) for own in logs)] for algo in algos]
    return table(["search", *MAIN], rows)


def labels() -> str:
    """The margin on items that the model answers, and on labels, which it does not."""
    heads = ["margin on", "unpruned", "pruned", "relative to divergence", "accuracy, percent", "overlap"]
    return table(heads, [[words, *_margin(data)] for words, data in DATA.items()])


def _margin(data: str) -> list[str]:
    own = study("study_labels", ("margin",), calibration=data)
    base = study("study", ("divergence",), tuple(own.cells["algo"].unique()))
    relative = factor_of_other_draws(*(log_perplexity(one).mean(axis=1).to_numpy() for one in (own, base)))
    losses = [f"{-own.cells[column].mean():.2f}" for column in ("dense_loss", "loss")]
    return [*losses, relative, f"{own.metrics['acc'].of(own.cells).mean():.1f}", overlap(own)]


def found_best(own: StudyData, objectives: Sequence[str]) -> str:
    """In how many draws each search found the best known mask, its mean regret in nats, and its cost."""
    rows = []
    for algo in ordered(own.regrets["algo"]):
        cells = own.regrets[own.regrets["algo"] == algo]
        found = [_regret(cells[cells["objective"] == objective]) for objective in objectives]
        rows.append([algo, *found, f"{cells['asked'].astype(float).mean():,.0f}"])
    return table(["search", *objectives, "losses asked for"], rows)


def _regret(cells: pd.DataFrame) -> str:
    best = int((cells["regret"] <= 1e-9).sum())
    return f"{best} of {len(cells)}, {cells['regret'].mean():.3f}"


def seeds() -> str:
    """The overlap of masks of two seeds, and of two draws."""
    rows = []
    for algo in SEEDED:
        own = study("study_seeds", TEXT, (algo,))
        rows.append([algo, overlap(own, "seeds"), overlap(own, "draws")])
    return table(["search", "two seeds", "two draws"], rows)


def healed() -> str:
    """Held-out perplexity and accuracy of masks: pruned, repaired, and healed."""
    rows = []
    for objective in HEALED:
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
    own = study("study_healing", HEALED)
    cells = own.cells[(own.cells["objective"] == objective) & (own.cells["algo"].isin([algo]) | (algo == ""))]
    rows = []
    for (draw, _), pair in cells.groupby(["draw", "algo"]):
        folders = zip(pair["compensation"], pair["cell"], strict=True)
        of = {name: read_done(own.results / str(cell))["evaluation"] for name, cell in folders}
        measured = of["none"]["pruned"], of["linear"]["pruned"], of["none"]["healed"]
        means = [np.mean([values[name] for name in own.metrics[kind].names]) for values in measured]
        rows.append([draw, *means])
    return pd.DataFrame(rows, columns=["draw", *STATES]).set_index("draw")


TABLES: dict[str, Callable[[], str]] = {
    "more shares": study_shares.further,
    "gains": gains,
    "labels": labels,
    "seeds": seeds,
    "healed": healed,
}
