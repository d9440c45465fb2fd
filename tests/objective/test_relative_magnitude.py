from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.objective.relative_magnitude import RelativeMagnitude
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, plain_states, samples, scores


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_terms_are_the_residual_relative_to_the_output(name: str, norm: int) -> None:
    module, data = model(name), samples("items")
    masks = [Mask(N_BLOCKS, (2,)), Mask(N_BLOCKS, (1, 5))]
    results = scores(bound(RelativeMagnitude(norm=norm), module, data), masks)
    for number, unit in enumerate(data.units):
        sizes = []
        for row in unit:
            states = plain_states(module, row)
            ratios = [
                np.linalg.norm(b - a, norm, -1) / np.linalg.norm(b, norm, -1) for a, b in pairwise(states)
            ]
            sizes.append([ratio.mean() for ratio in ratios])
        expected = np.mean(sizes, axis=0)
        assert results[masks[0]].samples[number] == pytest.approx(expected[2], rel=1e-9)
        assert results[masks[1]].samples[number] == pytest.approx(expected[1] + expected[5], rel=1e-9)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective.norm=3 is not supported: choose 1 or 2"):
        RelativeMagnitude(norm=3)
