"""Which losses of a study's cells are those of a pruned, and which of a repaired mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.stats import healed
from analysis.stats.healed import PRUNED, REPAIRED, healed_masks

WINDOWS = np.linspace(-0.1, 0.1, 4)
# For each cell: its compensation, and the losses of its evaluation.
LOSSES = {
    "a": ("magnitude", {"pruned": 2.5, "uncompensated": 3.0}),
    "b": ("none", {"pruned": 3.0}),
    "c": ("linear", {"pruned": 2.0, "uncompensated": 3.0}),
    "d": ("linear", {"pruned": 2.2, "uncompensated": 3.0}),
    "e": ("diagonal", {"pruned": 2.9, "uncompensated": 3.0}),
}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    def read(folder: Path) -> Any:
        return {"mask": {"n_blocks": 30, "dropped": [1]}, "calibration": {"sha256": folder.name}}

    def losses(results: Path, result: Any, metrics: Any, which: str = "pruned") -> Any:
        known = {"dense": 1.0} | LOSSES[result["calibration"]["sha256"]][1]
        return known[which] + WINDOWS

    monkeypatch.setattr(healed, "read_done", read)
    monkeypatch.setattr(healed, "window_losses", losses)
    rows = [{"cell": cell, "compensation": how} for cell, (how, _) in LOSSES.items()]
    return pd.DataFrame(rows).assign(model="m", ratio=0.2, objective="perplexity", algo="greedy")


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
def test_the_most_frequent_repair_is_averaged_over_draws(order: list[int], cells: pd.DataFrame) -> None:
    ((one,),) = healed_masks(Path("results"), cells.iloc[order], ["ppl/heldout"]).values()
    assert one.losses(PRUNED) == pytest.approx(3.0 + WINDOWS)
    assert one.losses(REPAIRED) == pytest.approx(2.1 + WINDOWS)
    assert len(one.states[REPAIRED]) == 2


def test_without_a_repair_there_is_no_such_state(cells: pd.DataFrame) -> None:
    ((one,),) = healed_masks(Path("results"), cells.iloc[:2], ["ppl/heldout"]).values()
    assert set(one.states) == {PRUNED}
