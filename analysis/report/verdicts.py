"""Tests of the paper's statements on a study. A statement holds, does not hold, or is inconclusive.

Statements are worded as in arXiv 2604.24938, v1 and v3, in `templates/sentences/verdicts.j2`. `paper/check.py` tests
statements of v1 with the numbers in its own tables, by the same rules. A verdict needs an interval or a test, and
leaves out what holds by construction. The paper gives no thresholds for words such as "marginal"; those here are
ours, and each sentence names them so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.archive import NothingToRead
from ..data.load import standard_error
from ..figures.fig5_variance_shares import MASKS, is_accuracy
from ..stats import mask_overlap
from ..stats.agreement import LEVEL, all_negative, most
from ..stats.components import Shares
from ..stats.means import rivals
from ..stats.outcome_errors import spans
from ..stats.regret import mean_gain
from .study_data import StudyData, say, tried

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "inconclusive"
MARGINAL = 0.1  # ours: an improvement is marginal if it is at most this share of what one-shot's mask costs
POINTS = (1.0, 3.0)  # the range in v1, in percentage points
Judgement = dict[str, Any]  # the verdict, and the numbers of its sentence or the reason why there are none


def claims(m: StudyData) -> list[str]:
    """One sentence per statement: the verdict, then its numbers. If the study lacks numbers, the verdict is OPEN.

    If verdicts leave out an objective because of what holds by construction, a sentence before them says so.
    """
    found = dict[str, Judgement]()
    for name, judge in JUDGES.items():
        try:
            found[name] = {"reason": ""} | judge(m.judged)
        except NothingToRead as nothing:
            found[name] = _open(str(nothing).rstrip("."))
    left = tried(lambda study: study.left_out, m) or ""
    return say("verdicts", found=found, left=left, level=LEVEL, marginal=MARGINAL)


def judged(low: float, high: float, limit: float) -> str:
    """Whether a quantity is above `limit`, given the ends of its interval. If the interval contains it: OPEN."""
    return HOLDS if low > limit else FAILS if high < limit else OPEN


def doubtful(m: StudyData, label: str) -> bool:
    """Whether an outcome is an accuracy that its interval decides, although noise alone would do so too often."""
    return is_accuracy(label) and larger(m.shares[0][label]) != OPEN and m.noise_alone.too_often


def larger(shares: Shares) -> str:
    """Whether calibration explains more variance than the search, judged by the interval of the symmetric ratio."""
    return judged(shares.total_ratio.low, shares.total_ratio.high, 1.0)


def _open(reason: str) -> Judgement:
    return {"verdict": OPEN, "reason": reason}


def _of(decided: bool | None) -> str:
    return OPEN if decided is None else HOLDS if decided else FAILS


def _together(verdicts: Sequence[str]) -> str:
    """One verdict for several objectives."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "holds for some objectives" if HOLDS in verdicts and FAILS not in verdicts else OPEN


def _masks(m: StudyData) -> Judgement:
    shares = m.shares[0][MASKS]
    return {"verdict": larger(shares), "shares": shares}


def _calibration_perplexity(m: StudyData) -> Judgement:
    """Judged on the perplexity of the calibration samples, which the statement speaks of; not on held-out text."""
    shares = m.calibration_perplexity
    return {"verdict": larger(shares), "shares": shares}


def _accuracy(m: StudyData) -> Judgement:
    """The data can refute "comparably" but not prove it: if the interval contains 1, the verdict is OPEN."""
    label = next((label for label in m.shares[0] if is_accuracy(label)), None)
    if label is None:
        return _open("no accuracy was measured")
    decided = larger(m.shares[0][label]) != OPEN
    verdict = FAILS if decided and not m.noise_alone.too_often else OPEN
    noise = m.noise_alone if decided else None
    return {"verdict": verdict, "shares": m.shares[0][label], "noise": noise, "note": m.answers.note}


def _objectives(m: StudyData) -> Judgement:
    """Whether masks of two objectives on the same samples are less similar than masks of two draws of one."""
    found = m.overlap_difference("objectives", "draws")
    if found is not None and math.isnan(found.low):
        found = None
    verdict = OPEN if found is None else judged(-found.high, -found.low, 0.0)
    return {"verdict": verdict, "found": found, "without": mask_overlap.apart(m.cells)}


def _searches(m: StudyData) -> Judgement:
    """Whether masks of two searches are more similar than masks of two draws of one search, for each objective."""
    objectives = sorted(set(m.cells["objective"]))
    every = {name: m.overlap_difference("algorithms", "draws", name) for name in objectives}
    known = {name: one for name, one in every.items() if one is not None and not math.isnan(one.low)}
    if not known:
        return _open("at least two searches and three draws of one size are needed")
    verdict = _together([judged(one.low, one.high, 0.0) for one in known.values()])
    return {"verdict": verdict, "objectives": known}


def _one_shot(m: StudyData) -> Judgement:
    """How much of what one-shot's mask costs the best known mask saves, on the same samples."""
    if m.gains.empty:
        return _open("needed are one_shot and another search")
    verdicts, rows = [], []
    for objective, problems in m.gains.groupby("objective"):
        mean = None  # no share: pruning can lower this loss
        if not problems["relative"].isna().any():
            mean = mean_gain(problems)
            verdicts.append(OPEN if math.isnan(mean.low) else judged(-mean.high, -mean.low, -MARGINAL))
        rows.append((objective, mean, int((problems["low"] > 0).sum()), len(problems)))
    return {"verdict": _together(verdicts) if verdicts else OPEN, "objectives": rows}


def _points(m: StudyData) -> Judgement:
    """In how many panels (model, k, objective) the best mean accuracy is 1 to 3 points above the worst.

    A panel counts only if it is on one side whatever the noise. Most panels must be on the same side.
    """
    if "acc" not in m.metrics:
        return _open("no accuracy was measured")
    metric = m.metrics["acc"]
    known = np.flatnonzero(m.cells["algo"].isin(rivals(m.cells)["algo"]) & metric.of(m.cells).notna())
    cells = m.cells.iloc[known]
    error = standard_error(metric, cells)
    answers = m.answers.take(known).tasks
    if error is None and not answers:
        return _open("the standard error of an accuracy is not known")
    found = spans(cells, metric.of(cells).to_numpy(float), error or 0.0, answers)
    if not found:
        return _open("no two searches can be compared")
    sides = [one.between(*POINTS) for one in found]
    return {
        "verdict": _of(most(sides)),
        "spans": [one.span for one in found],
        "middle": float(np.median([one.span for one in found])),
        "noise": float(np.median([one.noise for one in found])),
        "between": sides.count(True),
        "outside": sides.count(False),
    }


def _ranks(m: StudyData) -> Judgement:
    known = spearman(m).dropna(subset="value")
    if known.empty:
        return _open("no panel has a correlation")
    values, q = list(known["value"]), list(known["q"])
    counts = {"negative": sum(v < 0 for v in values), "sure": sum(one <= LEVEL for one in q), "n": len(q)}
    return {"verdict": _of(all_negative(values, q)), **counts}


def spearman(m: StudyData) -> Any:
    """Spearman's correlation of perplexity rank and accuracy rank, for each panel over all searches of the panel."""
    every = m.agreements
    return every[(every["statistic"] == "spearman") & (every["masks"] == "all")]


def _damage(m: StudyData) -> Judgement:
    """Whether each objective rates most pruned models clearly worse than the whole one.

    If an objective rates most of them clearly better, it does not measure the damage done by pruning.
    """
    verdicts, rows = [], []
    for objective, cells in m.against_dense.groupby("objective"):
        sides = list(cells["worse"])
        verdicts.append(_of(most(sides)))
        counts = sides.count(True), sides.count(False), int(cells["lower"].sum())
        rows.append((objective, ", ".join(map(str, counts)), len(cells)))
    return {"verdict": FAILS if FAILS in verdicts else _together(verdicts), "objectives": rows}


JUDGES = {
    "masks": _masks,
    "calibration_perplexity": _calibration_perplexity,
    "accuracy": _accuracy,
    "objectives": _objectives,
    "searches": _searches,
    "one_shot": _one_shot,
    "points": _points,
    "ranks": _ranks,
    "damage": _damage,
}
