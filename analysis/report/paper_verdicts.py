"""Test the paper's statements on a study. The verdict is that a statement holds, does not hold, or is not decided.

Statements are worded as in arXiv 2604.24938, v1 and v3. `paper/claims.py` tests statements with
the numbers in the paper's own tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from scipy import stats

from ..data.errors import NothingToRead
from ..figures.variance_shares import LOSS, MASKS
from ..stats.estimates import Shares
from ..stats.frames import groups
from ..stats.grid import STRATUM
from ..stats.search_means import means, rivals
from .phrasing import count, sentence, times
from .study_data import StudyData
from .variance_sentences import spearman

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "not decided by this study"
STEPS = (1.0, 3.0)  # range of the accuracy difference between searches, in percentage points, as stated in v1


def claims(m: StudyData) -> Iterator[str]:
    """One sentence per statement: the verdict, then its numbers. If the study lacks numbers, the verdict is OPEN."""
    for statement, judge in (
        ("'substantially larger role than the choice of search algorithm' in masks (v3)", _masks),
        ("the same in perplexity (v3)", _perplexity),
        ("'contributing comparably to variance in downstream reasoning accuracy' (v3)", _accuracy),
        ("objectives give different masks (v1)", _objectives),
        ("searches 'converging to similar pruned subsets' (v3)", _searches),
        ("'marginal performance improvements over simple one-shot' (v3)", _one_shot),
        ("'average accuracy differences of 1-3 percentage points' between searches (v1)", _points),
        ("rank by perplexity and rank by accuracy disagree (v1: five of six correlations negative)", _ranks),
        ("an objective measures what pruning costs (implied)", _damage),
    ):
        try:
            verdict, numbers = judge(m)
        except NothingToRead as nothing:
            verdict, numbers = OPEN, [str(nothing).rstrip(".")]
        yield sentence([f"{statement}: {verdict}", *numbers])


def _masks(m: StudyData) -> tuple[str, list[str]]:
    return _larger(m.shares[0][MASKS])


def _perplexity(m: StudyData) -> tuple[str, list[str]]:
    return _larger(next(s for label, s in m.shares[0].items() if label.startswith("log ")))


def _larger(shares: Shares) -> tuple[str, list[str]]:
    """Whether calibration explains more variance than the search, judged by the interval of `shares.ratio`."""
    ratio = shares.ratio
    if math.isnan(ratio.low):
        return OPEN, [shares.note or "the ratio has no interval"]
    verdict = HOLDS if ratio.low > 1 else FAILS if ratio.high < 1 else OPEN
    return verdict, [f"ratio of calibration to search {_interval(shares)}"]


def _accuracy(m: StudyData) -> tuple[str, list[str]]:
    label = next(label for label in m.shares[0] if label not in (MASKS, LOSS) and "accuracy" in label)
    shares = m.shares[0][label]
    verdict, numbers = _larger(shares)
    # The data can refute "comparably" but not prove it: if the interval contains 1, the verdict is OPEN.
    return (FAILS if verdict in (HOLDS, FAILS) else OPEN), numbers


def _interval(shares: Shares) -> str:
    r = shares.ratio
    return f"{times(r.value)} ({times(r.low)} to {times(r.high)})"


def _objectives(m: StudyData) -> tuple[str, list[str]]:
    between, draws = (_overlap(m, name) for name in ("objectives", "draws"))
    if between.empty or draws.empty:
        return OPEN, ["at least two objectives and two draws are needed"]
    verdict = HOLDS if between.mean() < draws.mean() else FAILS
    words = f"corrected overlap {between.mean():.2f} between objectives"
    return verdict, [f"{words}, {draws.mean():.2f} between draws of one objective"]


def _searches(m: StudyData) -> tuple[str, list[str]]:
    """Whether masks of two searches are more similar than masks of two draws of one search, for each objective."""
    rows = []
    for objective in sorted(m.cells["objective"].unique()):
        pairs = m.overlaps[m.overlaps["objective"] == objective]
        overlaps = [
            pairs.loc[pairs["comparison"] == name, "corrected"].dropna() for name in ("algorithms", "draws")
        ]
        if all(len(f) for f in overlaps):
            rows.append((objective, float(overlaps[0].mean()), float(overlaps[1].mean())))
    if not rows:
        return OPEN, ["at least two searches and two draws are needed"]
    alike = [searches > draws for _, searches, draws in rows]
    verdict = HOLDS if all(alike) else FAILS if not any(alike) else "holds for some objectives"
    by_objective = [f"{o} {s:.2f} and {d:.2f}" for o, s, d in rows]
    return verdict, [f"corrected overlap between searches and between draws: {', '.join(by_objective)}"]


def _overlap(m: StudyData, comparison: str) -> pd.Series[float]:
    return m.overlaps.loc[m.overlaps["comparison"] == comparison, "corrected"].dropna()


def _one_shot(m: StudyData) -> tuple[str, list[str]]:
    """In how many problems one-shot is within one standard error of the best known mask."""
    one_shot = m.regrets[m.regrets["algo"] == "one_shot"].dropna(subset="regret_se")
    if one_shot.empty or m.regrets["algo"].nunique() < 2:
        return OPEN, ["needed are one_shot, another search, and losses with standard errors"]
    near, n = int((one_shot["regret_se"] <= 1).sum()), len(one_shot)
    low, high = stats.binomtest(near, n).proportion_ci(method="wilson")
    verdict = HOLDS if low > 0.5 else FAILS if high < 0.5 else OPEN
    by = [
        f"{objective} {int((part['regret_se'] <= 1).sum())} of {len(part)}"
        for objective, part in groups(one_shot, "objective")
    ]
    words = f"one-shot is within one standard error of the best known mask in {near} of {count(n, 'problem')}"
    return verdict, [
        f"{words} (interval of the share {low:.2f} to {high:.2f})",
        f"by objective: {', '.join(by)}",
    ]


def _points(m: StudyData) -> tuple[str, list[str]]:
    """In how many panels (model, k, objective) the best mean accuracy is 1 to 3 points above the worst."""
    if "acc" not in m.metrics:
        raise NothingToRead("no accuracy was measured")
    cells = m.cells.assign(accuracy=m.metrics["acc"].of(m.cells)).dropna(subset="accuracy")
    spans = []
    for _, panel in groups(rivals(cells), [*STRATUM, "objective"]):
        searches = means(panel, ["accuracy"])
        if len(searches) > 1:
            spans.append(float(searches["accuracy"].max() - searches["accuracy"].min()))
    if not spans:
        return OPEN, ["no two searches can be compared"]
    inside = sum(STEPS[0] <= span <= STEPS[1] for span in spans)
    verdict = HOLDS if 2 * inside > len(spans) else FAILS
    words = f"highest minus lowest is between 1 and 3 in {inside} of {count(len(spans), 'panel')}"
    return verdict, [words, f"the median is {pd.Series(spans).median():.1f}, the maximum {max(spans):.1f}"]


def _ranks(m: StudyData) -> tuple[str, list[str]]:
    correlations = spearman(m).dropna(subset="value")
    if correlations.empty:
        return OPEN, ["no panel has a correlation"]
    negative, sure = int((correlations["value"] < 0).sum()), correlations[correlations["q"] <= 0.05]
    words = (
        f"{negative} of {count(len(correlations), 'correlation')} are negative, {len(sure)} are significant"
    )
    if sure.empty:
        return OPEN, [words]
    return (HOLDS if (sure["value"] < 0).all() else FAILS), [words]


def _damage(m: StudyData) -> tuple[str, list[str]]:
    """How often an objective rates the pruned model better than the dense model.

    If this happens in most cells of an objective, the objective does not measure the damage done by pruning.
    """
    cells = m.cells.dropna(subset=["loss", "dense_loss"])
    better = cells.assign(better=cells["loss"] < cells["dense_loss"]).groupby("objective")["better"]
    counts = [f"{objective} {int(flags.sum())} of {len(flags)}" for objective, flags in better]
    verdict = FAILS if (better.mean() > 0.5).any() else HOLDS
    return verdict, [
        f"cells in which the objective rates the pruned model better than the whole one: {', '.join(counts)}"
    ]
