"""The numbers of verdicts: paired gains over one-shot, differences of overlaps, spans of accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.data.archive import folder
from analysis.data.study import AskedStudy
from analysis.stats.agreement import all_negative, most
from analysis.stats.grid import EXACT, additive, exact_by_construction
from analysis.stats.mask_overlap import difference
from analysis.stats.outcome_errors import Span, spans
from analysis.stats.regret import gains, mean_gain
from analysis.stats.stability import damages
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
    assert additive([[*singles, score((1, 2), [4.001])]]), "bfloat16 rounds"
    assert additive([singles]) is None, "nothing to compare"
    cells = pd.DataFrame({"cell": ["a", "b"], "objective": ["sum", "other"]})
    traces = {"a": [*singles, score((1, 2), [4.0])], "b": [*singles, score((1, 2), [9.0])]}
    assert exact_by_construction(cells, traces) == {"sum"}


ARCHIVES = Path(__file__).parents[3] / "analysis"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "small", "study_healing"])
def test_additive_losses_are_recognised_in_the_archived_studies(name: str) -> None:
    study = AskedStudy(folder(ARCHIVES / f"{name}/{name}.tar.xz"), name)
    cells = study.frame[study.frame["status"] == "done"]
    errors: dict[str, list[float]] = {}
    for cell, objective in zip(cells["cell"], cells["objective"], strict=True):
        losses = {tuple(line["dropped"]): line["loss"] for line in study.traces[cell]}
        rises = {mask: loss - losses[()] for mask, loss in losses.items()}
        larger = [mask for mask in rises if len(mask) > 1 and all((unit,) in rises for unit in mask)]
        if larger:
            off = max(abs(rises[mask] - sum(rises[unit,] for unit in mask)) for mask in larger)
            errors.setdefault(objective, []).append(off / max(abs(rises[mask]) for mask in larger))
    others = [error for objective, of in errors.items() if objective != "block_influence" for error in of]
    assert max(errors["block_influence"]) < EXACT / 2
    assert min(others) > 3 * EXACT, "no cell alone would be taken for one that adds up"
    assert exact_by_construction(cells, study.traces) == {"block_influence"}


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


@pytest.mark.parametrize(
    ("span", "noise", "expected"),
    [
        (2.0, 0.5, True),
        (1.3, 1.7, None),  # less than its noise
        (1.8, 1.7, None),
        (3.2, 0.5, None),
        (4.0, 0.5, False),
        (0.2, 0.1, False),
    ],
)
def test_a_span_is_placed_only_if_noise_cannot_move_it(
    span: float, noise: float, expected: bool | None
) -> None:
    assert Span(span, noise).between(1.0, 3.0) is expected


def test_noise_moves_a_span_by_more_than_stated_in_five_percent_of_cases_at_most() -> None:
    rng = np.random.default_rng(0)
    alone = stats.studentized_range.ppf(0.95, 5, np.inf)
    for truth in (np.zeros(5), np.linspace(0, 2, 5), np.array([0.0, 0.0, 0.0, 0.0, 6.0])):
        measured = np.ptp(truth + rng.normal(size=(4000, 5)), axis=1)
        assert np.mean(np.abs(measured - np.ptp(truth)) <= alone) >= 0.945


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([True, True, None], True),
        ([False, False, False, True], False),
        ([True, True, False, False], None),
        ([False, None, None], None),
        ([], None),
    ],
)
def test_most_of_all_decide_and_not_most_of_those_that_are_clear(
    sides: list[bool | None], expected: bool | None
) -> None:
    assert most(sides) is expected


def test_signs_decide_only_if_all_significant_ones_agree() -> None:
    assert all_negative([-0.9, 0.8, -0.7], [0.01, 0.3, 0.05]) is True
    assert all_negative([0.9, -0.8], [0.01, 0.3]) is False
    assert all_negative([0.9, -0.8], [0.01, 0.01]) is None
    assert all_negative([-0.9, -0.8], [0.06, 0.3]) is None


def test_a_pruned_model_is_clearly_worse_or_better_only_beyond_the_noise_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(3.0, 1.0, 30)  # samples differ much more than models
    noise = rng.normal(0, 0.1, 30)
    noise -= noise.mean()
    error = noise.std(ddof=1) / np.sqrt(30)
    steps = {"worse": 3 * error, "better": -3 * error, "equal": 0.5 * error}
    traces = {name: [score((), dense), score((1,), dense + noise + step)] for name, step in steps.items()}
    traces["alone"] = [score((1,), dense)]
    cells = pd.DataFrame(
        {
            "cell": list(traces),
            "objective": "o",
            "dropped": [(1,)] * 4,
            "asked": 1,
            "loss": 2.9,
            "dense_loss": 3.0,
        }
    )
    assert list(damages(cells, traces)["worse"]) == [True, False, None, None]
    assert list(damages(cells, traces)["lower"]) == [True] * 4
    p = stats.t.cdf(-3, 29)
    for asked, expected in ((int(0.05 / p), False), (int(0.05 / p) + 1, None)):
        chosen = damages(cells.assign(asked=asked), traces)["worse"]
        assert list(chosen) == [True, expected, None, None], "the best of many masks is better by chance"
