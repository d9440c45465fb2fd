"""Compare objectives over the same searches: one that only some objectives have is no effect of the objective."""

from __future__ import annotations

import pandas as pd

from .grid import SETTING, labels

DIFFERENT = "over different searches"


def compared(stratum: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The cells of one model and k over which objectives are compared, and a note if cells are left out.

    These are the cells of searches that every objective has finished, in settings where all of these searches are
    finished. An objective without such a setting keeps all its cells of these searches. If no search is common, all
    cells are returned, and the note is `DIFFERENT`.
    """
    objectives = stratum["objective"].nunique()
    having = stratum.groupby("algo")["objective"].nunique()
    common = sorted(map(str, having.index[having == objectives]))
    if objectives < 2:
        return stratum, ""
    if not common:
        return stratum, DIFFERENT
    cells = stratum[stratum["algo"].isin(common)]
    setting = pd.Series(labels(cells, SETTING), cells.index)
    complete = cells.groupby(setting)["algo"].transform("nunique") == len(common)
    whole = complete | ~complete.groupby(cells["objective"]).transform("any")
    note = ""
    if len(common) < len(having):
        left = sorted(set(map(str, having.index)) - set(common))
        note = f"without {', '.join(left)}, which not every objective has"
    elif not whole.all():
        note = "without draws that some search lacks"
    return cells[whole], note
