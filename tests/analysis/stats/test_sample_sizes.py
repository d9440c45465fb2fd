from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.stats.stability import by_size
from tests.helpers.analysis_grid import frame


def cells() -> pd.DataFrame:
    """Two sizes: three draws of two searches agree with many samples, and have nothing in common with few."""
    one = frame(objectives=1, data=1, draws=3, algos=2)
    few = one.assign(samples=8, dropped=[tuple(range(9 * d + 3 * a, 9 * d + 3 * a + 3)) for d, a in at(one)])
    many = one.assign(samples=64, dropped=[(1, 2, 3 + a) for _, a in at(one)])
    return pd.concat([few, many], ignore_index=True)


def at(one: pd.DataFrame) -> list[tuple[int, int]]:
    return [(int(row.draw), int(row.algo[-1])) for row in one.itertuples()]


def test_masks_of_two_draws_are_compared_at_each_number_of_samples() -> None:
    table = by_size(cells(), {})
    assert list(table["samples"]) == [8, 64]
    assert table["corrected"].iloc[0] < 0
    assert table["corrected"].iloc[1] == pytest.approx(1.0)
    assert list(table["cells"]) == [6, 6]
    assert list(table["draws"]) == [3, 3]


def test_only_searches_and_draws_with_every_size_count() -> None:
    grid = cells()
    lone = grid[(grid["samples"] == 64)].assign(algo="algo9", dropped=[(20 + i, 26, 27) for i in range(6)])
    table = by_size(pd.concat([grid, lone], ignore_index=True), {})
    assert list(table["cells"]) == [6, 6]
    assert table["corrected"].iloc[1] == pytest.approx(1.0)
    incomplete = grid[(grid["samples"] == 8) | (grid["draw"] > 0) | (grid["algo"] == "algo0")]
    assert list(by_size(incomplete, {})["cells"]) == [5, 5]


def test_a_number_with_one_draw_does_not_take_the_draws_of_the_others_away() -> None:
    grid = cells()
    first = grid[(grid["samples"] == 64) & (grid["draw"] == 0)].assign(samples=256)
    table = by_size(pd.concat([grid, first], ignore_index=True), {})
    assert list(table["samples"]) == [8, 64]
    assert list(table["cells"]) == [6, 6]


def test_cells_with_protected_blocks_are_compared_among_themselves() -> None:
    grid = cells()
    apart = grid.assign(protect_first=(grid["samples"] == 8).astype(int))
    assert by_size(apart, {}).empty


def test_outcomes_are_means_and_perplexities_are_geometric_means() -> None:
    grid = cells()
    values = pd.Series(np.where(grid["draw"] == 0, 100.0, 10.0), grid.index)
    table = by_size(grid, {"ppl": values, "acc": values}, ["ppl"])
    assert table["ppl"].tolist() == pytest.approx([10 ** (4 / 3)] * 2)
    assert table["acc"].tolist() == pytest.approx([40.0] * 2)
    lacking = values.where(grid["samples"] == 64)
    assert by_size(grid, {"acc": lacking})["acc"].isna().tolist() == [True, False]


def test_a_study_of_one_size_has_no_rows() -> None:
    assert by_size(cells().query("samples == 8"), {}).empty
