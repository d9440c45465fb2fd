"""Simulated answers to items, with known probabilities of a right answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.grid import SETTING, labels
from tests.helpers.known_shares import archived_design

ITEMS = 100


def noisy_cells() -> pd.DataFrame:
    """The cells of the archived study's design, with about as many distinct masks as the study has.

    Under objective o0, there is one mask for each data set; under o1, one for each setting; under o2, two for each
    setting; under o3, every search finds another mask.
    """
    frame = archived_design().frame
    number = int(frame["algo"].nunique())
    algo, draw = frame["algo"].str[-1].astype(int), frame["draw"].astype(int)
    own = frame["objective"].map({"o0": 1, "o1": 1, "o2": 2, "o3": number})
    setting = pd.Series(labels(frame, ["model", "k", *SETTING])) - draw.where(frame["objective"] == "o0", 0)
    masks = zip(setting, algo, own, strict=True)
    return frame.assign(dropped=[(int(s), 1000 + int(a) % int(n)) for s, a, n in masks])


def answers(frame: pd.DataFrame, seed: int, better: Any = 0.0) -> dict[str, Any]:
    """Answers (cells, ITEMS) to each of two tasks: 1 if right, else 0. `better` (cells,) raises the probabilities."""
    rng = np.random.default_rng(seed)
    mask = labels(frame.assign(dropped=frame["dropped"].map(str)), ["model", "dropped"])
    found = {}
    for task in ("acc/a", "acc/b"):
        easy = rng.uniform(0.2, 0.8, ITEMS)
        drawn = rng.random((mask.max() + 1, ITEMS))[mask]
        found[task] = (drawn < easy + np.reshape(better, (-1, 1))).astype(float)
    return found
