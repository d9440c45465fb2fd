"""Files of arrays, such as `routing/NAME/scores/TASK-heldout.npz`: what was changed or damaged is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.core.errors import DamagedError
from pruning.routing.fitted_router import DIGEST, read_arrays, save_arrays

ARRAYS: dict[str, Any] = {"hits": np.array([[True, False]]), "sums": np.arange(4.0).reshape(2, 2)}


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    save_arrays(path := tmp_path / "scores.npz", ARRAYS)
    found = read_arrays(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"sums": np.array([[0.0, 1.0], [2.0, 3.5]])},
        {"sums": np.arange(4.0)},
        {"sums": np.arange(4.0, dtype=np.float32).reshape(2, 2)},
        {"more": np.zeros(1)},
        {DIGEST: np.array("0" * 64)},
        {DIGEST: None},
    ],
)
def test_arrays_that_were_changed_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    save_arrays(path := tmp_path / "scores.npz", ARRAYS)
    with np.load(path) as stored:
        changed = {name: value for name, value in ({**stored} | change).items() if value is not None}
    np.savez_compressed(path, **changed)
    with pytest.raises(DamagedError, match=r"scores\.npz is damaged .*digest.*run again"):
        read_arrays(path)
