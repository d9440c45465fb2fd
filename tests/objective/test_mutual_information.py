from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_regression

from pruning.calibration.samples import Row, Samples
from pruning.core.mask import Mask
from pruning.objective.mutual_information import MutualInformation
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, plain_states, scores
from tests.helpers.rows import text_rows

GOLDEN_TOKENS = [1, 2, 3, 10, 11, 14, 16, 18]
GOLDEN_DIRECTIONS = [[0.957319, -0.972906], [0.196114, -0.216142], [-0.212321, -0.082075]]
LONG = Samples("text", "long", text_rows(3, longest=40, seed=1), 0)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_terms_are_the_library_s_estimate_on_random_directions(name: str) -> None:
    module, settings = model(name), MutualInformation(projections=3, seed=5)
    masks = [Mask(N_BLOCKS, (2,)), Mask(N_BLOCKS, (0, 5))]
    results = scores(bound(settings, module, LONG), masks)
    drawn = np.random.default_rng(5).standard_normal((32, 3))
    for number, row in enumerate(LONG.rows):
        projected = [state @ (drawn / np.linalg.norm(drawn, axis=0)) for state in plain_states(module, row)]

        def information(i: int, j: int, projected: Any = projected) -> float:
            pairs = zip(projected[i].T, projected[j].T, strict=True)
            return float(
                np.mean([mutual_info_regression(a[:, None], b, random_state=5)[0] for a, b in pairs])
            )

        assert results[masks[0]].samples[number] == pytest.approx(-information(2, 3), abs=1e-9)
        assert results[masks[1]].samples[number] == pytest.approx(
            -information(0, 1) - information(5, 6), abs=1e-9
        )


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_for_gaussians_it_equals_the_formula(correlation: float) -> None:
    settings = MutualInformation(projections=2)
    a, noise = np.random.default_rng(0).standard_normal((2, 4000, 2))
    b = correlation * a + np.sqrt(1 - correlation**2) * noise
    assert settings._information(a, b) == pytest.approx(-0.5 * np.log(1 - correlation**2), abs=0.05)


def test_tokens_and_directions_are_drawn_with_the_seed() -> None:
    settings = MutualInformation(projections=2, tokens=8, seed=3)
    assert settings._chosen(20).tolist() == GOLDEN_TOKENS
    assert settings._chosen(5).tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(settings._directions(3), GOLDEN_DIRECTIONS, atol=1e-6)
    module, mask = model(), Mask(N_BLOCKS, (2,))
    values = [
        scores(bound(MutualInformation(seed=seed, tokens=10), module, LONG), [mask])[mask].loss
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1] != values[2]


def test_rows_of_two_tokens_count_0_and_short_rows_use_fewer_neighbours() -> None:
    data = Samples(
        "text", "short", (Row((3, 4), (1, 2)), Row((3, 4, 5), (1, 3)), Row((3, 4, 5, 6), (1, 4))), 0
    )
    mask = Mask(N_BLOCKS, (2,))
    score = scores(bound(MutualInformation(), model(), data), [mask])[mask]
    assert score.samples[0] == 0
    assert np.isfinite(score.samples).all()


def test_a_run_counts_once_for_each_of_its_blocks() -> None:
    module, run, alone = model(), Mask(N_BLOCKS, (1, 2, 3)), Mask(N_BLOCKS, (5,))
    joint = scores(bound(MutualInformation(by="run"), module, LONG), [run, alone])
    single = scores(bound(MutualInformation(), module, LONG), [run, alone])
    assert joint[alone].samples == single[alone].samples
    settings = MutualInformation()
    (row, *_) = LONG.rows
    ends = [plain_states(module, row)[depth] @ settings._directions(32) for depth in (1, 4)]
    assert joint[run].samples[0] == pytest.approx(-3 * settings._information(*ends), abs=1e-9)
