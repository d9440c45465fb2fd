"""Test the paper's statements on a study. The verdict is that a statement holds, does not hold, or is inconclusive.

Statements are worded as in arXiv 2604.24938, v1 and v3. `paper/claims.py` tests statements of v1 with the numbers in
its own tables, by the same rules (`stats.rules`). A verdict needs an interval or a test, and leaves out what holds by
construction. The paper gives no thresholds for words such as "marginal"; those below are ours, and each sentence
names them so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..data.errors import NothingToRead
from ..figures.ratio_words import ratio_words
from ..figures.variance_shares import MASKS, accuracy
from ..stats import overlap_pairs
from ..stats.estimates import Shares
from ..stats.one_shot import mean_gain
from ..stats.rules import LEVEL, all_negative, most
from .finding_numbers import tried
from .phrasing import count, percent, sentence
from .points import points
from .study_data import StudyData
from .variance_sentences import noise, spearman
from .verdicts import FAILS, HOLDS, OPEN, judged, of

MARGINAL = 0.1  # ours: an improvement is marginal if it is at most this share of what one-shot's mask costs


def claims(m: StudyData) -> Iterator[str]:
    """One sentence per statement: the verdict, then its numbers. If the study lacks numbers, the verdict is OPEN.

    If verdicts leave out an objective because of what holds by construction, a sentence before them says so.
    """
    if left := tried(lambda study: study.left_out, m):
        yield sentence([f"all verdicts are {left}"])
    for statement, judge in (
        ("'substantially larger role than the choice of search algorithm' in masks (v3)", _masks),
        ("the same in calibration perplexity (v3)", _calibration_perplexity),
        ("'contributing comparably to variance in downstream reasoning accuracy' (v3)", _accuracy),
        ("objectives give different masks (v1)", _objectives),
        ("searches 'converging to similar pruned subsets' (v3)", _searches),
        ("'marginal performance improvements over simple one-shot' (v3)", _one_shot),
        ("'average accuracy differences of 1-3 percentage points' between searches (v1)", points),
        ("rank by perplexity and rank by accuracy disagree (v1: five of six correlations negative)", _ranks),
        ("an objective measures what pruning costs (implied)", _damage),
    ):
        try:
            verdict, numbers = judge(m.judged)
        except NothingToRead as nothing:
            verdict, numbers = OPEN, [str(nothing).rstrip(".")]
        yield sentence([f"{statement}: {verdict}", *numbers])


def _masks(m: StudyData) -> tuple[str, list[str]]:
    return _larger(m.shares[0][MASKS])


def _calibration_perplexity(m: StudyData) -> tuple[str, list[str]]:
    """Judged on the perplexity of the calibration samples, which the statement speaks of; not on held-out text."""
    verdict, numbers = _larger(m.calibration_perplexity)
    return verdict, [*numbers, "of the rise above the dense model's, in cells pruned for perplexity"]


def _larger(shares: Shares) -> tuple[str, list[str]]:
    """Whether calibration explains more variance than the search, judged by the interval of the symmetric ratio."""
    ratio = shares.total_ratio
    if math.isnan(ratio.low):
        return OPEN, [shares.note or "the ratio has no interval"]
    words = [
        f"calibration : search {ratio_words(shares, 'total_ratio')}, with their interaction on both sides"
    ]
    if not math.isnan(shares.objective_ratio.low):
        words.append(f"objective : search {ratio_words(shares, 'objective_ratio')}")
        words.append(f"objective : draw {ratio_words(shares, 'objective_draw')}")
    return judged(ratio.low, ratio.high, 1.0), words


def _accuracy(m: StudyData) -> tuple[str, list[str]]:
    """The data can refute "comparably" but not prove it: if the interval contains 1, the verdict is OPEN."""
    label = next((label for label in m.shares[0] if accuracy(label)), None)
    if label is None:
        return OPEN, ["no accuracy was measured"]
    verdict, numbers = _larger(m.shares[0][label])
    if verdict == OPEN:
        return OPEN, [*numbers, *([m.answers.note] if m.answers.note else [])]
    if m.noise_alone.too_often:
        return OPEN, [*numbers, noise(m)]
    return FAILS, [*numbers, noise(m)]


def _objectives(m: StudyData) -> tuple[str, list[str]]:
    """Whether masks of two objectives on the same samples are less similar than masks of two draws of one."""
    found, without = m.overlap_difference("objectives", "draws"), overlap_pairs.apart(m.cells)
    if found is None or math.isnan(found.low):
        return OPEN, [
            "at least two objectives on the same samples, and three draws of one size, are needed",
            without,
        ]
    words = f"corrected overlap {found.first:.2f} between objectives on the same samples, {found.second:.2f} between"
    apart = _difference(found.first - found.second, found.low, found.high)
    return judged(-found.high, -found.low, 0.0), [
        f"{words} draws of one objective (difference {apart})",
        without,
    ]


def _searches(m: StudyData) -> tuple[str, list[str]]:
    """Whether masks of two searches are more similar than masks of two draws of one search, for each objective."""
    verdicts, words = [], []
    for objective in sorted(set(m.cells["objective"])):
        found = m.overlap_difference("algorithms", "draws", objective)
        if found is not None and not math.isnan(found.low):
            verdicts.append(judged(found.low, found.high, 0.0))
            apart = _difference(found.first - found.second, found.low, found.high)
            words.append(f"{objective} {found.first:.2f} and {found.second:.2f} (difference {apart})")
    if not verdicts:
        return OPEN, ["at least two searches and three draws of one size are needed"]
    return _together(verdicts), [f"corrected overlap between searches and between draws: {', '.join(words)}"]


def _together(verdicts: list[str]) -> str:
    """One verdict for several objectives."""
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "holds for some objectives" if HOLDS in verdicts and FAILS not in verdicts else OPEN


def _one_shot(m: StudyData) -> tuple[str, list[str]]:
    """How much of what one-shot's mask costs the best known mask saves, on the same samples."""
    gains = m.gains
    if gains.empty:
        return OPEN, ["needed are one_shot and another search"]
    verdicts, words = [], []
    for objective, problems in gains.groupby("objective"):
        clear = f"clearly better in {int((problems['low'] > 0).sum())} of {count(len(problems), 'problem')}"
        if problems["relative"].isna().any():
            words.append(f"{objective} {clear} (no share: pruning can lower this loss)")
            continue
        mean = mean_gain(problems)
        verdicts.append(OPEN if math.isnan(mean.low) else judged(-mean.high, -mean.low, -MARGINAL))
        interval = "" if math.isnan(mean.low) else f" ({percent(mean.low)} to {percent(mean.high)})"
        words.append(f"{objective} {percent(mean.mean)} percent{interval}, {clear}")
    first = "share of the rise of one-shot's loss that the best known mask avoids, on the same samples"
    limit = f"our threshold for 'marginal' is {percent(MARGINAL)} percent"
    return _together(verdicts) if verdicts else OPEN, [f"{first}: {'; '.join(words)}", limit]


def _difference(value: float, low: float, high: float) -> str:
    return f"{value:+.2f}, {low:+.2f} to {high:+.2f}".replace("-", "−")  # noqa: RUF001


def _ranks(m: StudyData) -> tuple[str, list[str]]:
    correlations = spearman(m).dropna(subset="value")
    if correlations.empty:
        return OPEN, ["no panel has a correlation"]
    below, sure = int((correlations["value"] < 0).sum()), int((correlations["q"] <= LEVEL).sum())
    words = f"{below} of {count(len(correlations), 'correlation')} are negative, {sure} are significant"
    level = f"our level is {LEVEL}, with the false discovery rate controlled"
    return of(all_negative(list(correlations["value"]), list(correlations["q"]))), [words, level]


def _damage(m: StudyData) -> tuple[str, list[str]]:
    """Whether each objective rates most pruned models clearly worse than the whole one.

    If an objective rates most of them clearly better, it does not measure the damage done by pruning.
    """
    verdicts, words = [], []
    for objective, cells in m.against_dense.groupby("objective"):
        sides = list(cells["worse"])
        verdicts.append(of(most(sides)))
        numbers = [sides.count(True), sides.count(False), int(cells["lower"].sum())]
        words.append(f"{objective} {', '.join(map(str, numbers))} of {len(cells)}")
    return FAILS if FAILS in verdicts else _together(verdicts), [
        "cells in which the pruned model's loss is clearly above the whole model's, clearly below, and below at all: "
        + "; ".join(words),
        f"a difference is clear if a paired test on the same samples is significant at our level of {LEVEL}; for "
        "lower losses, the test is corrected for the number of scores that the search chose from",
        "our reading: most cells decide",
    ]
