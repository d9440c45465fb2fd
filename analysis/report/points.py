"""The statement on differences of 1 to 3 points, judged only where noise is smaller than that."""

from __future__ import annotations

import numpy as np

from ..data.errors import NothingToRead
from ..data.metrics import standard_error
from ..stats.accuracy_spans import spans
from ..stats.search_means import rivals
from .phrasing import count
from .study_data import StudyData
from .verdicts import FAILS, HOLDS, OPEN

STEPS = (1.0, 3.0)  # the range in v1, in percentage points


def points(m: StudyData) -> tuple[str, list[str]]:
    """In how many panels (model, k, objective) the best mean accuracy is 1 to 3 points above the worst.

    If noise alone often makes differences of 3 points, the statement cannot be judged.
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
    inside = sum(STEPS[0] <= each.span <= STEPS[1] for each in found)
    span, noise = (float(np.median([getattr(each, name) for each in found])) for name in ("span", "noise"))
    words = f"highest minus lowest is between 1 and 3 in {inside} of {count(len(found), 'panel')}"
    numbers = [words, f"the median is {span:.1f} points, the maximum {max(each.span for each in found):.1f}"]
    numbers.append(f"noise alone exceeds {noise:.1f} points in 5 percent of cases")
    if noise > STEPS[1]:
        return OPEN, numbers
    return (HOLDS if 2 * inside > len(found) else FAILS), [*numbers, "our reading: most panels decide"]
