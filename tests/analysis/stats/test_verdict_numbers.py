"""The numbers of verdicts: paired gains over one-shot, differences of overlaps, spans of accuracies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.accuracy_spans import spans
from analysis.stats.by_construction import additive, exact_by_construction
from analysis.stats.one_shot import gains, mean_gain
from analysis.stats.overlap_difference import difference
from tests.helpers.analysis_grid import frame, with_masks


def score(dropped: tuple[int, ...], samples: Any) -> dict[str, Any]:
    return {
        "dropped": list(dropped),
        "loss": float(np.mean(samples)),
        "samples": list(samples),
        "seconds": 0.0,
    }


def test_losses_that_add_up_make_one_shot_exact() -> None:
    singles = [score((), [1.0]), *(score((i,), [1.0 + i]) for i in range(4))]
    assert additive([[*singles, score((1, 2), [4.0])]])
    assert not additive([[*singles, score((1, 2), [4.1])]])
    assert additive([singles]) is None, "nothing to compare"
    cells = pd.DataFrame({"cell": ["a", "b"], "objective": ["sum", "other"]})
    traces = {"a": [*singles, score((1, 2), [4.0])], "b": [*singles, score((1, 2), [9.0])]}
    assert exact_by_construction(cells, traces) == {"sum"}


def problem() -> tuple[pd.DataFrame, dict[str, Any]]:
    """Two draws of one problem. One-shot's mask is worse by about 0.1, with losses that vary by 1."""
    cells = frame(objectives=1, data=1, draws=2, algos=2).assign(budget=None)
    cells["algo"] = cells["algo"].map({"algo0": "one_shot", "algo1": "beam"})
    cells["cell"] = [f"c{i}" for i in range(len(cells))]
    cells = cells.assign(
        dropped=[(0, 1, 2) if a == "one_shot" else (0, 1, 3) for a in cells["algo"]], dense_loss=1.0
    )
    rng, traces, losses = np.random.default_rng(0), {}, []
    for cell, algo in zip(cells["cell"], cells["algo"], strict=True):
        hard = np.random.default_rng(int(cell[1:]) // 2).normal(3.0, 1.0, 30)
        worse = hard + rng.normal(0.1, 0.05, 30)
        own = score((0, 1, 2), worse) if algo == "one_shot" else score((0, 1, 3), hard)
        traces[cell] = [own]
        losses.append(own["loss"])
    return cells.assign(loss=losses), traces


def test_gains_are_paired_on_the_same_samples() -> None:
    cells, traces = problem()
    found = gains(cells, traces)
    assert len(found) == 2
    for i, row in enumerate(found.itertuples()):
        first, second = (np.array(traces[f"c{2 * i + j}"][0]["samples"]) for j in (0, 1))
        interval = stats.ttest_rel(first, second).confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        assert row.low > 0, "clear, although a loss has a standard error of 0.2"
        assert row.relative == pytest.approx((first - second).mean() / (first.mean() - 1.0))


def test_a_gain_over_draws_is_that_of_their_means() -> None:
    drawn = [(n, 0, 0) for n in (0, 0, 1, 1, 2, 2)]
    problems = pd.DataFrame({"drawn": drawn, "relative": [0.1, 0.3, 0.3, 0.5, 0.5, 0.7]})
    found = mean_gain(problems)
    expected = stats.ttest_1samp([0.2, 0.4, 0.6], 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((0.4, expected.low, expected.high))
    assert np.isnan(mean_gain(problems.iloc[:2]).low)
    apart = problems.assign(drawn=[(n, n, n) for n, *_ in drawn])
    assert np.isnan(mean_gain(apart).low), "each of the data was drawn once"


def masks(by_draw: float, by_algo: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cells = frame(objectives=1, draws=3, algos=4)
    setting = cells.groupby(["calibration", "draw"]).ngroup()
    base = rng.normal(size=30)
    own = rng.normal(0, by_draw, (setting.max() + 1, 30))[setting]
    return with_masks(cells, base + own + rng.normal(0, by_algo, (len(cells), 30)))


def test_overlaps_of_draws_and_searches_are_told_apart_only_if_they_differ() -> None:
    clear = difference(masks(2.0, 0.1, 0), "algorithms", "draws")
    assert clear is not None
    assert clear.low > 0
    assert clear.draws == 6
    doubtful = [difference(masks(0.0, 1.0, seed), "algorithms", "draws") for seed in range(40)]
    assert np.mean([d is not None and d.low <= 0 <= d.high for d in doubtful]) >= 0.9
    assert difference(masks(1.0, 1.0, 0).query("algo == 'algo0'"), "algorithms", "draws") is None


def test_noise_makes_spans_of_accuracies() -> None:
    rng = np.random.default_rng(3)
    cells = frame(objectives=2, data=1, draws=2, algos=5)
    cells = cells.assign(dropped=[(i,) for i in range(len(cells))])
    accuracy = 50 + 4.0 * rng.normal(size=len(cells))
    found = spans(cells, accuracy, 4.0, {})
    assert len(found) == 2
    alone = stats.studentized_range.ppf(0.95, 5, 1e6) * 4.0 / np.sqrt(2)  # means of two draws
    for each in found:
        assert each.noise == pytest.approx(alone, rel=0.1)
    exact = spans(cells, accuracy, 4.0, {"acc/a": np.ones((len(cells), 50))})
    assert all(each.noise == 0 for each in exact), "all answers agree"
