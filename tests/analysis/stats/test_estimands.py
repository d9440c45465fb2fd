"""Blocks that change and what they cost: by hand on a small grid, and the numbers of the archived study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.data.archive import folder
from analysis.data.load import done, load
from analysis.stats.estimands import (
    DRAWN,
    OBJECTIVE,
    SEARCH,
    Change,
    changes,
    search_lines,
)
from docs.described import ROOT
from tests.helpers.analysis_grid import frame

# -- by hand


@pytest.fixture
def cells() -> pd.DataFrame:
    """Two objectives, three draws and two searches; each mask removes three of ten blocks."""
    dropped = {
        ("o0", 0): [(0, 1, 2), (0, 1, 3)],
        ("o0", 1): [(0, 1, 2), (0, 1, 2)],
        ("o0", 2): [(0, 5, 6), (4, 5, 6)],
        ("o1", 0): [(0, 1, 2), (7, 8, 9)],
        ("o1", 1): [(0, 1, 4), (0, 1, 2)],
        ("o1", 2): [(0, 5, 6), (4, 5, 6)],
    }
    plain = frame(objectives=2, data=1, draws=3, algos=2).assign(n_blocks=10)
    masks = [
        dropped[o, d][int(a[-1])]
        for o, d, a in zip(plain["objective"], plain["draw"], plain["algo"], strict=True)
    ]
    return plain.assign(dropped=pd.Series(masks, dtype=object))


def one(found: list[Change], factor: str, first: str, model: str = "a", apart: bool = False) -> Change:
    """The only change with this factor and first objective."""
    (change,) = [
        c for c in found if (c.factor, c.objectives[0], c.model, c.apart) == (factor, first, model, apart)
    ]
    return change


def test_changes_and_chance_are_those_counted_by_hand(cells: pd.DataFrame) -> None:
    found = changes(cells)
    search = one(found, SEARCH, "o0")
    assert list(search.each) == [1, 0, 1]
    assert search.changed.mean == pytest.approx(2 / 3)
    assert (search.chance, search.most) == pytest.approx((3 - 9 / 10, 3))
    # Draws 0 and 1 differ in 0 and 1 blocks, 0 and 2 in 2 and 3, 1 and 2 in 2 and 3.
    drawn = one(found, DRAWN, "o0")
    assert drawn.changed.mean == pytest.approx(11 / 6)
    assert drawn.each == pytest.approx((6 / 4, 6 / 4, 10 / 4))
    objective = one(found, OBJECTIVE, "o0")
    assert objective.others == ("o1",)
    assert list(objective.each) == [1.5, 0.5, 0]
    assert objective.changed.mean == pytest.approx(2 / 3)


def test_intervals_leave_out_one_draw_and_end_at_what_is_possible(cells: pd.DataFrame) -> None:
    objective = one(changes(cells), OBJECTIVE, "o0").changed
    half = stats.t.ppf(0.975, 2) * np.std([1.5, 0.5, 0], ddof=1) / 3**0.5
    assert (objective.low, objective.high) == pytest.approx((0, min(3, 2 / 3 + half)))
    drawn = one(changes(cells), DRAWN, "o0").changed
    assert np.isnan([drawn.error, drawn.low, drawn.high]).all(), "between draws, intervals cover too rarely"


def test_objectives_without_common_samples_are_compared_on_all_pairs_of_draws(cells: pd.DataFrame) -> None:
    items = cells.assign(calibration=cells["calibration"].where(cells["objective"] == "o0", "items"))
    found = changes(items)
    apart = one(found, OBJECTIVE, "o0", apart=True)
    masks = items.set_index(["objective", "algo", "draw"])["dropped"]
    values = {
        (a, b): np.mean([3 - len({*masks["o0", s, a]} & {*masks["o1", s, b]}) for s in ("algo0", "algo1")])
        for a in range(3)
        for b in range(3)
    }
    assert apart.changed.mean == pytest.approx(np.mean(list(values.values())))
    assert apart.each == pytest.approx([np.mean([v for k, v in values.items() if n in k]) for n in range(3)])
    left = np.array([np.mean([v for k, v in values.items() if n not in k]) for n in range(3)])
    assert apart.changed.error == pytest.approx(np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum()))
    assert len(found) == 5


def test_worst_to_best_is_a_geometric_mean_over_what_stays_equal(cells: pd.DataFrame) -> None:
    ppl = pd.Series([10.0, 20, 10, 10, 10, 40, 20, 20, 10, 10, 10, 10])  # o0: three draws of two searches
    found = changes(cells, np.log(ppl))
    assert one(found, SEARCH, "o0").worst_to_best.mean == pytest.approx((2 * 1 * 4) ** (1 / 3))
    assert one(found, DRAWN, "o0").worst_to_best.mean == pytest.approx((1 * 4) ** 0.5)
    assert np.isnan(one(found, DRAWN, "o0").worst_to_best.low)
    assert one(found, OBJECTIVE, "o0").worst_to_best.mean == pytest.approx((2 * 1 * 1 * 1 * 1 * 4) ** (1 / 6))


def test_a_line_goes_from_one_shot_to_the_search_with_the_lowest_loss() -> None:
    plain = frame(objectives=1, data=1, draws=2, algos=3)
    plain["algo"] = plain["algo"].replace({"algo1": "one_shot"})
    plain["loss"] = [3.0, 5.0, 4.0, 2.0, 2.0, 2.0]
    first, second = search_lines(plain, [0.1, 0.3, 0.2, 1.0, 1.0, 1.0])
    assert first.searches == ("one_shot", "algo2", "algo0")
    assert (first.gained, first.over) == ((0, 1, 2), (0.3, 0.2, 0.1))
    assert first.correlation == pytest.approx(-1)
    assert np.isnan(second.correlation)
    assert search_lines(plain[plain["algo"] != "one_shot"], [0.1] * 4) == []


# -- the archived study

SMOLLM2, GEMMA = "smollm2", "gemma3_270m"
# As an independent recomputation from the raw files had them: for perplexity, divergence and margin.
EXPECTED = {
    (SMOLLM2, SEARCH): (1.05, 0.73, 2.40),
    (SMOLLM2, DRAWN): (0.54, 0.23, 3.47),
    (SMOLLM2, OBJECTIVE): (0.33,),
    (GEMMA, SEARCH): (0.42, 0, 0.81),
    (GEMMA, DRAWN): (0.73, 0, 1.32),
    (GEMMA, OBJECTIVE): (0.67,),
}
HALVES = {SEARCH: (0.28, 0.225, 1.01), OBJECTIVE: (0.24,)}  # of the intervals, on SmolLM2


def test_the_archived_study_changes_as_many_blocks_as_counted_elsewhere() -> None:
    cells = done(load(folder(ROOT / "analysis/study/study.tar.xz"), "study"))
    found = changes(cells[cells["objective"] != "block_influence"].reset_index(drop=True))
    for (model, factor), means in EXPECTED.items():
        for i, mean in enumerate(means):
            changed = one(found, factor, ("perplexity", "divergence", "margin")[i], model).changed
            assert changed.mean == pytest.approx(mean, abs=0.0051), (model, factor, i)
            if model == SMOLLM2 and factor in HALVES:
                assert changed.high - changed.mean == pytest.approx(HALVES[factor][i], abs=0.0055)
    for model, mean, half, chance in ((SMOLLM2, 4.88, 0.67, 4.8), (GEMMA, 2.93, 0.24, 3.11)):
        text = one(found, OBJECTIVE, "perplexity", model, apart=True)
        assert (text.objectives, text.others) == (("perplexity", "divergence"), ("margin",))
        assert (text.changed.mean, text.chance) == pytest.approx((mean, chance), abs=0.0051)
        assert text.changed.high - text.changed.mean == pytest.approx(half, abs=0.0051)
