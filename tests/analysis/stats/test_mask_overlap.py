"""Masks that are compared: against pair by pair, and in cases whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.stats.grid import CELL, COMPARISONS, masks
from analysis.stats.mask_overlap import MaskSet, compared
from tests.helpers.analysis_grid import frame


def counted(cells: pd.DataFrame, comparison: str) -> int:
    return len(compared(cells, comparison)[0])


def test_pairs_differ_in_one_thing_only() -> None:
    cells = frame(objectives=2, data=2, draws=3, algos=4, ks=(3, 6))
    assert {name: counted(cells, name) for name in COMPARISONS} == {
        "algorithms": 24 * 6,  # 2 k x 2 objectives x 2 data x 3 draws
        "draws": 32 * 3,
        "objectives": 48,  # on the same samples: 2 k x 2 data x 3 draws x 4 algorithms
        "seeds": 0,
    }
    two = pd.concat([cells, cells.assign(seed=9)], ignore_index=True)
    assert counted(two, "seeds") == len(cells)
    items = cells.assign(calibration=cells["calibration"].where(cells["objective"] == "o0", "items"))
    assert counted(items, "objectives") == 0, "data share only the numbers of their draws"
    one = frame(objectives=1, data=1, draws=1, algos=3).assign(protect_first=[0, 0, 1])
    assert counted(one, "algorithms") == 1, "other protected blocks are another null model"


def random_study(seed: int) -> pd.DataFrame:
    """Cells of several sizes, two models, protected blocks, and some cells missing."""
    rng = np.random.default_rng(seed)
    cells = frame(objectives=2, data=2, draws=4, algos=3, models=("a", "b"), ks=(1, 4, 30))
    cells = pd.concat([cells, cells])[rng.random(2 * len(cells)) > 0.4].reset_index(drop=True)
    cells = cells.assign(n_blocks=np.where(cells["model"] == "b", 130, 30))
    cells = cells.assign(protect_first=rng.integers(0, 2, len(cells)))
    dropped = [
        tuple(sorted(map(int, rng.choice(n, min(k, n), replace=False))))
        for n, k in zip(cells["n_blocks"], cells["k"], strict=True)
    ]
    return cells.assign(dropped=dropped, seed=rng.integers(0, 2, len(cells)))


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_pairs_at_once_equal_pair_by_pair(comparison: str) -> None:
    cells, varied = random_study(0), COMPARISONS[comparison]
    fixed = [c for c in (*CELL, "protect_first", "protect_last") if c != varied]
    every, plain = masks(cells), {}
    for group in cells.groupby(fixed, dropna=False).indices.values():
        for i, j in itertools.combinations(sorted(group.tolist()), 2):
            if cells[varied][i] != cells[varied][j]:
                gone = [{*mask.dropped} for mask in (every[i], every[j])]
                plain[i, j] = every[i].jaccard(every[j]), len(gone[0] ^ gone[1]) / 2
    i, j = compared(cells, comparison)
    found = MaskSet.of(cells).pairs(i, j)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == list(plain)
    np.testing.assert_array_equal(np.column_stack([found.jaccard, found.changed]), [*plain.values()])
