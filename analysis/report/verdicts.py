"""Tests of the paper's statements on a study. A statement holds, does not hold, or is inconclusive.

Statements are worded as in arXiv 2604.24938 v3, in `templates/sentences/verdicts.j2`. A verdict needs an interval,
and leaves out objectives for which one-shot is exact by construction. The paper gives no threshold for words such as
"marginal"; the threshold here is ours, and the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..data.archive import NothingToRead
from ..figures.fig5_variance_shares import MASKS, is_accuracy
from ..stats.components import Shares
from ..stats.estimands import SEARCH
from ..stats.means import CellDraws, over_draws
from .study_data import StudyData, say, tried

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "inconclusive"
MARGINAL = 0.1  # ours: an improvement of at most this share of the loss that one-shot's mask adds is marginal
Judgement = dict[str, Any]  # the verdict, and its sentence's numbers or the reason why there are none


def claims(m: StudyData) -> list[str]:
    """One sentence per statement: the verdict, then its numbers. If the study lacks numbers, the verdict is OPEN.

    If verdicts leave out an objective, a sentence before them says so.
    """
    found = dict[str, Judgement]()
    for name, judge in JUDGES.items():
        try:
            found[name] = {"reason": ""} | judge(m.judged)
        except NothingToRead as nothing:
            found[name] = _open(str(nothing).rstrip("."))
    left = tried(lambda study: study.left_out, m) or ""
    return say("verdicts", found=found, left=left, marginal=MARGINAL)


def judged(low: float, high: float, limit: float) -> str:
    """Whether a quantity is above `limit`, given the ends of its interval; OPEN if the interval contains `limit`."""
    return HOLDS if low > limit else FAILS if high < limit else OPEN


def larger(shares: Shares) -> str:
    """Whether calibration explains more variance than the search, judged by the interval of their ratio."""
    return judged(shares.total_ratio.low, shares.total_ratio.high, 1.0)


def _open(reason: str) -> Judgement:
    return {"verdict": OPEN, "reason": reason}


def _together(verdicts: Sequence[str]) -> str:
    """Combine the verdicts on several objectives into one."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "holds for some objectives" if HOLDS in verdicts and FAILS not in verdicts else OPEN


def _larger(shares: Shares) -> Judgement:
    return {"verdict": larger(shares), "shares": shares}


def _accuracy(m: StudyData) -> Judgement:
    """Whether calibration and search explain accuracy "comparably": no if the ratio's interval lacks 1, else OPEN."""
    label = next((label for label in m.shares if is_accuracy(label)), None)
    if label is None:
        return _open("no accuracy was measured")
    shares = m.shares[label]
    return {"verdict": OPEN if larger(shares) == OPEN else FAILS, "shares": shares}


def _searches(m: StudyData) -> Judgement:
    """Whether masks of two searches are more alike than random masks, for each model, size and objective."""
    known = [one for one in m.changes if one.factor == SEARCH and not math.isnan(one.changed.low)]
    if not known:
        return _open("at least two searches and two draws of one size are needed")
    verdicts = [judged(-one.changed.high, -one.changed.low, -one.chance) for one in known]
    return {
        "verdict": _together(verdicts),
        "counts": {name: verdicts.count(name) for name in (HOLDS, OPEN, FAILS)},
    }


def _one_shot(m: StudyData) -> Judgement:
    """By what share the best known mask reduces the loss that one-shot's mask adds, on the same samples."""
    if m.gains.empty:
        return _open("needed are one_shot and another search")
    verdicts, rows = [], []
    for objective, problems in m.gains.groupby("objective"):
        mean = None  # there is no share if pruning lowered the loss in a problem
        if not problems["relative"].isna().any():
            mean = over_draws(problems["relative"], CellDraws.of(problems))
            verdicts.append(OPEN if math.isnan(mean.low) else judged(-mean.high, -mean.low, -MARGINAL))
        rows.append((objective, mean, int((problems["low"] > 0).sum()), len(problems)))
    return {"verdict": _together(verdicts) if verdicts else OPEN, "objectives": rows}


JUDGES: dict[str, Callable[[StudyData], Judgement]] = {
    "masks": lambda m: _larger(m.shares[MASKS]),
    # The statement is about the perplexity of the calibration samples, not about that of held-out text.
    "calibration_perplexity": lambda m: _larger(m.calibration_perplexity),
    "accuracy": _accuracy,
    "searches": _searches,
    "one_shot": _one_shot,
}
