"""The losses of masks on each calibration sample, so that two masks can be compared on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .crossed import Trace, complete_scores
from .removal import budgets

Removed = tuple[int, ...]


def sample_losses(
    problem: pd.DataFrame, traces: Mapping[str, Trace], masks: Set[Removed] | None = None
) -> dict[Removed, NDArray[np.float64]]:
    """The losses (samples,) of the complete masks that some cell of a problem has scored on all samples.

    `masks` are the masks to look for; by default, all. If several cells have scored a mask, its losses are means over
    these cells, as in `regret.mask_losses`. Nothing is returned if the loss of a mask is not the plain mean of its
    samples, or if cells have different numbers of samples: then samples cannot be paired.
    """
    known: dict[Removed, list[NDArray[np.float64]]] = {}
    for cell, k, budget in zip(problem["cell"], problem["k"], budgets(problem), strict=True):
        for mask, score in complete_scores(traces.get(cell, ()), int(k), budget).items():
            if masks is not None and mask not in masks:
                continue
            samples, loss = np.array(score["samples"], float), float(score["loss"])
            if abs(samples.mean() - loss) > 1e-6 + 1e-3 * abs(loss):
                return {}
            known.setdefault(mask, []).append(samples)
    if len({len(samples) for samples in chain.from_iterable(known.values())}) > 1:
        return {}
    return {mask: np.mean(losses, axis=0) for mask, losses in known.items()}
