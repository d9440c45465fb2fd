"""The statement on differences of 1 to 3 points, judged only where noise cannot decide it."""

from __future__ import annotations

import numpy as np

from ..data.errors import NothingToRead
from ..data.metrics import standard_error
from ..stats.accuracy_spans import spans
from ..stats.rules import most
from ..stats.search_means import rivals
from .phrasing import count
from .study_data import StudyData
from .verdicts import OPEN, of

STEPS = (1.0, 3.0)  # the range in v1, in percentage points


def points(m: StudyData) -> tuple[str, list[str]]:
    """In how many panels (model, k, objective) the best mean accuracy is 1 to 3 points above the worst.

    A panel counts only if it is on one side whatever the noise. Most panels must be on the same side.
    """
    if "acc" not in m.metrics:
        raise NothingToRead("no accuracy was measured")
    metric = m.metrics["acc"]
    known = np.flatnonzero(m.cells["algo"].isin(rivals(m.cells)["algo"]) & metric.of(m.cells).notna())
    cells = m.cells.iloc[known]
    error = standard_error(metric, cells)
    answers = m.answers.take(known).tasks
    if error is None and not answers:
        return OPEN, ["the standard error of an accuracy is not known"]
    found = spans(cells, metric.of(cells).to_numpy(float), error or 0.0, answers)
    if not found:
        return OPEN, ["no two searches can be compared"]
    middle, noise = (float(np.median([getattr(each, name) for each in found])) for name in ("span", "noise"))
    least, largest = min(each.span for each in found), max(each.span for each in found)
    sides = [each.between(*STEPS) for each in found]
    return of(most(sides)), [
        f"highest minus lowest is {least:.1f} to {largest:.1f} points in {count(len(found), 'panel')}, "
        f"median {middle:.1f}",
        f"noise alone exceeds {noise:.1f} points in 5 percent of cases (median over panels)",
        f"whatever the noise, it is between 1 and 3 in {sides.count(True)} and outside in {sides.count(False)}",
        "our reading: most panels decide",
    ]
