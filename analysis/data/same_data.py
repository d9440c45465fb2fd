"""Compare cells on the same held-out data: a cell can be evaluated again on other data, and the new value counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import pandas as pd

from pruning.core.metric_names import main_of, without_error

# The column with the metrics of a cell that were measured on other data than those of most cells.
OTHER = "other_data"


def on_same_data(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without values on other data: for each model and metric, those of most cells are kept.

    The column `data` of the frame, which maps metrics to the digests of their data, is replaced by `other_data`: a
    text with the metrics whose values were left out. Cells of older versions have no digests; they are kept.
    """
    values = [(str(c), main_of(without_error(str(c).partition("/")[2]))) for c in frame if "/" in str(c)]
    left: dict[Hashable, list[str]] = {}
    kept = frame.drop(columns="data").astype({name: float for name, _ in values}).copy()
    for _, cells in frame.dropna(subset="data").groupby("model"):
        for metric in sorted({metric for data in cells["data"] for metric in data}):
            digests = {row: data[metric] for row, data in cells["data"].items() if metric in data}
            counts = Counter(digests.values())
            usual = max(counts, key=lambda digest: (counts[digest], digest))
            others = [row for row, digest in digests.items() if digest != usual]
            kept.loc[others, [name for name, of in values if of == metric]] = float("nan")
            for row in others:
                left.setdefault(row, []).append(metric)
    return kept.assign(
        **{OTHER: pd.Series({row: ", ".join(names) for row, names in left.items()}, dtype=object)}
    )
