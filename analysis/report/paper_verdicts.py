"""The paper's statements, held against a study: what holds, what does not, and what the study cannot tell.

The wording is that of arXiv 2604.24938, v1 and v3; `paper_claims.py` holds the same paper against its own tables.
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
from .phrasing import count, listed, sentence, times
from .study_data import StudyData
from .variance_sentences import spearman

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "is not told by this study"
STEPS = (1.0, 3.0)  # points of accuracy between searches, as v1 has it


def claims(m: StudyData) -> Iterator[str]:
    """One sentence a statement, its judgement first; a statement that the study holds nothing for says so."""
    for statement, judge in (
        ("'substantially larger role than the choice of search algorithm' in masks (v3)", _masks),
        ("the same in perplexity (v3)", _perplexity),
        ("'contributing comparably to variance in downstream reasoning accuracy' (v3)", _accuracy),
        ("objectives give different masks (v1)", _objectives),
        ("searches 'converging to similar pruned subsets' (v3)", _searches),
        ("'marginal performance improvements over simple one-shot' (v3)", _one_shot),
        ("'average accuracy differences of 1-3 percentage points' between searches (v1)", _points),
        ("rank by perplexity and rank by accuracy disagree (v1: five of six correlations negative)", _ranks),
        ("implied: an objective measures what pruning costs", _damage),
    ):
        try:
            verdict, numbers = judge(m)
        except NothingToRead as nothing:
            verdict, numbers = OPEN, [str(nothing).rstrip(".")]
        yield sentence([f"{statement} {verdict}: {'; '.join(numbers)}"])


def _masks(m: StudyData) -> tuple[str, list[str]]:
    return _larger(m.shares[0][MASKS])


def _perplexity(m: StudyData) -> tuple[str, list[str]]:
    return _larger(next(s for label, s in m.shares[0].items() if label.startswith("log ")))


def _larger(shares: Shares) -> tuple[str, list[str]]:
    """Whether calibration takes more than the search, as far as the interval tells."""
    ratio = shares.ratio
    if math.isnan(ratio.low):
        return OPEN, [shares.note or "the ratio has no interval"]
    verdict = HOLDS if ratio.low > 1 else FAILS if ratio.high < 1 else OPEN
    return verdict, [f"calibration to search {_interval(shares)}"]


def _accuracy(m: StudyData) -> tuple[str, list[str]]:
    label = next(label for label in m.shares[0] if label not in (MASKS, LOSS) and "accuracy" in label)
    shares = m.shares[0][label]
    verdict, numbers = _larger(shares)
    # Comparable is what can be refused, not shown: an interval that holds 1 leaves it standing.
    return (FAILS if verdict in (HOLDS, FAILS) else OPEN), numbers


def _interval(shares: Shares) -> str:
    r = shares.ratio
    return f"{times(r.value)} ({times(r.low)} to {times(r.high)})"


def _objectives(m: StudyData) -> tuple[str, list[str]]:
    between, draws = (_overlap(m, name) for name in ("objectives", "draws"))
    if between.empty or draws.empty:
        return OPEN, ["it takes two objectives and two draws"]
    verdict = HOLDS if between.mean() < draws.mean() else FAILS
    words = (
        f"corrected overlap {between.mean():.2f} between objectives, {draws.mean():.2f} between draws of one"
    )
    return verdict, [words]


def _searches(m: StudyData) -> tuple[str, list[str]]:
    """More alike than two draws of one search: then the choice of samples decides more than that of the search."""
    rows = []
    for objective in sorted(m.cells["objective"].unique()):
        pairs = m.overlaps[m.overlaps["objective"] == objective]
        found = [
            pairs.loc[pairs["comparison"] == name, "corrected"].dropna() for name in ("algorithms", "draws")
        ]
        if all(len(f) for f in found):
            rows.append((objective, float(found[0].mean()), float(found[1].mean())))
    if not rows:
        return OPEN, ["it takes two searches and two draws"]
    alike = [searches > draws for _, searches, draws in rows]
    verdict = HOLDS if all(alike) else FAILS if not any(alike) else "holds for some objectives"
    said = [f"{o} {s:.2f} between searches, {d:.2f} between draws" for o, s, d in rows]
    return verdict, [f"corrected overlap {listed(said)}"]


def _overlap(m: StudyData, comparison: str) -> pd.Series[float]:
    return m.overlaps.loc[m.overlaps["comparison"] == comparison, "corrected"].dropna()


def _one_shot(m: StudyData) -> tuple[str, list[str]]:
    """Within one standard error of the best known mask, in how many problems."""
    own = m.regrets[m.regrets["algo"] == "one_shot"].dropna(subset="regret_se")
    if own.empty or m.regrets["algo"].nunique() < 2:
        return OPEN, ["one_shot and another search are needed, and losses with standard errors"]
    near, n = int((own["regret_se"] <= 1).sum()), len(own)
    low, high = stats.binomtest(near, n).proportion_ci(method="wilson")
    verdict = HOLDS if low > 0.5 else FAILS if high < 0.5 else OPEN
    by = [
        f"{objective} {int((part['regret_se'] <= 1).sum())} of {len(part)}"
        for objective, part in groups(own, "objective")
    ]
    words = f"within one standard error of the best known mask in {near} of {count(n, 'problem')}"
    return verdict, [f"{words} (interval of the share {low:.2f} to {high:.2f})", listed(by)]


def _points(m: StudyData) -> tuple[str, list[str]]:
    """The range of mean accuracy over searches, for each model, k and objective."""
    if "acc" not in m.metrics:
        raise NothingToRead("no accuracy was measured")
    cells = m.cells.assign(accuracy=m.metrics["acc"].of(m.cells)).dropna(subset="accuracy")
    spans = []
    for _, panel in groups(rivals(cells), [*STRATUM, "objective"]):
        found = means(panel, ["accuracy"])
        if len(found) > 1:
            spans.append(float(found["accuracy"].max() - found["accuracy"].min()))
    if not spans:
        return OPEN, ["no two searches can be compared"]
    inside = sum(STEPS[0] <= span <= STEPS[1] for span in spans)
    verdict = HOLDS if 2 * inside > len(spans) else FAILS
    words = f"highest less lowest in {inside} of {count(len(spans), 'panel')} between 1 and 3, the median is"
    return verdict, [f"{words} {pd.Series(spans).median():.1f}, the most {max(spans):.1f}"]


def _ranks(m: StudyData) -> tuple[str, list[str]]:
    told = spearman(m).dropna(subset="value")
    if told.empty:
        return OPEN, ["no panel has a correlation"]
    negative, sure = int((told["value"] < 0).sum()), told[told["q"] <= 0.05]
    words = f"{negative} of {count(len(told), 'panel')} are negative, {len(sure)} are told from chance"
    if sure.empty:
        return OPEN, [words]
    return (HOLDS if (sure["value"] < 0).all() else FAILS), [words]


def _damage(m: StudyData) -> tuple[str, list[str]]:
    """Masks that are better than the whole model by their own objective: that cannot be what pruning costs."""
    cells = m.cells.dropna(subset=["loss", "dense_loss"])
    better = cells.assign(better=cells["loss"] < cells["dense_loss"]).groupby("objective")["better"]
    said = [f"{objective} {int(own.sum())} of {len(own)}" for objective, own in better]
    verdict = FAILS if (better.mean() > 0.5).any() else HOLDS
    return verdict, [f"cells whose mask its own objective prefers to the whole model: {listed(said)}"]
