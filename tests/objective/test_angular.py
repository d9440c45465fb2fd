from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.core.mask import Mask
from pruning.objective.angular import Angular, _angle
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, plain_states, samples, scores


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(a[-1] @ b[-1] / np.linalg.norm(a[-1]) / np.linalg.norm(b[-1])) / np.pi)


@pytest.mark.parametrize("kind", ["text", "items"])
@pytest.mark.parametrize("name", ["llama", "mistral", "phi"])
def test_a_window_of_blocks_costs_gromovs_distance(name: str, kind: str) -> None:
    module, data = model(name), samples(kind)
    windows = {(i, j): Mask(N_BLOCKS, tuple(range(i, j))) for i, j in [(0, 1), (0, 4), (2, 5), (3, 6)]}
    results = scores(bound(Angular(), module, data), list(windows.values()))
    for number, unit in enumerate(data.units):
        states = [plain_states(module, row) for row in unit]
        for (i, j), mask in windows.items():
            expected = np.mean([angle(state[i], state[j]) for state in states])
            assert results[mask].samples[number] == pytest.approx(expected, rel=1e-9)


def test_runs_are_added_up() -> None:
    module, data = model(), samples("text")
    parts = [Mask(N_BLOCKS, (0, 1)), Mask(N_BLOCKS, (3,)), Mask(N_BLOCKS, (0, 1, 3))]
    a, b, both = (score.loss for score in scores(bound(Angular(), module, data), parts).values())
    assert both == pytest.approx(a + b)
    by_block = scores(
        bound(Angular(by="block"), module, data), [Mask(N_BLOCKS, (0,)), Mask(N_BLOCKS, (1,)), parts[0]]
    )
    first, second, joint = (score.loss for score in by_block.values())
    assert joint == pytest.approx(first + second)
    assert abs(joint - a) > 1e-3


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 1.0)])
def test_collinear_states_are_handled(sign: float, expected: float) -> None:
    """Rounding can make the absolute value of their cosine greater than 1."""
    state = torch.full((1, 3), 0.1)
    assert _angle(state, sign * 7 * state) == pytest.approx(expected, abs=1e-6)
