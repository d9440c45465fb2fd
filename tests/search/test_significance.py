from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pruning.core.mask import Mask
from pruning.core.scoring import Estimate, Score
from pruning.search.decide import compare, decision, holm, margins

SAMPLES = 40
EVEN = Estimate((1.0,) * SAMPLES, (0,) * SAMPLES)


def score(block: int, mean: float, noise: float = 0.0, seed: int = 0, of: int | None = None) -> Score:
    """A score whose terms are the sum of the common difficulty of the samples and some independent noise."""
    common = np.random.default_rng(99).normal(size=SAMPLES)
    independent = np.random.default_rng(seed).normal(size=SAMPLES) * noise
    terms = tuple((mean + common + independent - independent.mean())[: of and 10].tolist())
    return Score(Mask(9, (block,)), EVEN.mean(terms), terms, 1.0, of)


def test_a_comparison_is_the_paired_t_test() -> None:
    a, b = score(0, 1.0, 0.3, 1), score(1, 1.1, 0.3, 2)
    comparison = compare(a, b, EVEN)
    expected = stats.ttest_rel(b.samples, a.samples, alternative="greater")
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.p_value == pytest.approx(expected.pvalue)
    assert comparison.difference / comparison.error == pytest.approx(expected.statistic)


def test_the_runner_up_is_the_nearest_and_ties_are_not_significantly_worse() -> None:
    winner = score(0, 1.0, 0.2, 1)
    others = [score(1, 3.0, 0.2, 2), score(2, 1.01, 0.2, 3), score(3, 1.02, 0.2, 4), winner]
    record = margins(winner, others, EVEN)
    assert record["compared"] == 3, "the winner is not compared with itself"
    assert record["runner_up"]["dropped"] == [2]
    assert record["runner_up"]["difference"] == pytest.approx(0.01)
    assert record["ties"] == [[2], [3]]
    assert record["tied"] == 2


def test_a_mask_scored_on_a_few_samples_is_not_the_runner_up_if_there_is_another() -> None:
    winner, lucky = score(0, 1.0, 0.1, 1), score(2, 0.9, 0.1, 3, of=SAMPLES)
    record = margins(winner, [lucky, score(1, 1.5, 0.1, 2)], EVEN)
    assert record["runner_up"]["dropped"] == [1]
    assert [2] in record["ties"]
    assert margins(winner, [lucky], EVEN)["runner_up"]["dropped"] == [2]


def test_many_comparisons_are_corrected_for() -> None:
    winner, second = score(0, 1.0, 0.2, 0), score(1, 1.075, 0.2, 1)
    assert margins(winner, [second], EVEN)["tied"] == 0
    crowd = [replace(score(2, 1.02, 0.2, seed), mask=Mask(9, (2, seed))) for seed in range(3, 9)]
    p_values = [compare(winner, other, EVEN).p_value for other in (second, *crowd)]
    assert p_values[0] < 0.05 < 7 * p_values[0]
    assert min(p_values[1:]) > 0.05
    assert margins(winner, [second, *crowd], EVEN)["tied"] == 7, "the difference is no longer significant"


def test_holm_equals_the_published_example() -> None:
    # Holm (1979) with p = .01, .04, .03, .005: .03, .06, .06, .02
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_decision_compares_the_last_mask_chosen_with_the_nearest_one_not_chosen() -> None:
    scores = [score(i, mean, 0.1, i) for i, mean in enumerate((1.5, 1.0, 1.2, 1.3))]
    record = decision(scores[1:3], [scores[0], scores[3]], 2, EVEN)
    assert record is not None
    assert (record["chosen"], record["next"]["dropped"]) == ([2], [3])
    assert record["next"]["difference"] == pytest.approx(0.1)
    assert (record["best"], record["of"]) == (2, 4)


def test_a_mask_that_was_ruled_out_early_is_compared_on_its_samples() -> None:
    out = score(2, 9.0, 0.1, 2, of=SAMPLES)
    record = decision([score(0, 1.0, 0.1, 1)], [out], 1, EVEN)
    assert record is not None
    assert record["next"]["samples"] == 10


def test_a_mask_that_a_race_ruled_out_is_not_chosen_even_if_another_cell_has_a_better_score() -> None:
    record = decision([score(0, 1.0, 0.1, 1), score(1, 1.2, 0.1, 2)], [score(2, 0.9, 0.1, 3)], 1, EVEN)
    assert record is not None
    assert (record["chosen"], record["next"]["dropped"]) == ([0], [2])
    assert record["next"]["difference"] == pytest.approx(-0.1)


def test_one_sample_rules_out_no_tie() -> None:
    alone = Estimate((1.0,), (0,))
    winner, other = (Score(Mask(9, (i,)), loss, (loss,), 1.0) for i, loss in enumerate((1.0, 5.0)))
    assert margins(winner, [other], alone)["tied"] == 1


def test_of_two_kinds_of_samples_a_false_alarm_is_as_rare_as_stated() -> None:
    """Two windows and many items: the windows dominate the error."""
    parts = (0, 1, 0, *(1,) * 40)
    apart, rng, alarms = Estimate((1.0,) * 43, parts, (0.5, 0.5)), np.random.default_rng(0), 0
    spread = np.where(np.array(parts) == 0, 1.0, 0.1)
    same = Score(Mask(9, (0,)), 0.0, (0.0,) * 43, 1.0)
    for _ in range(400):
        terms = (rng.standard_normal(43) * spread).tolist()
        other = Score(Mask(9, (1,)), apart.mean(terms), tuple(terms), 1.0)
        alarms += compare(same, other, apart).p_value < 0.05
    assert alarms <= 0.08 * 400
