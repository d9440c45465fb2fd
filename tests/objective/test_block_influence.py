from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.objective.block_influence import BlockInfluence
from tests.helpers.objectives import SINGLES, bound, model, plain_states, samples, scores


def influence(a: np.ndarray, b: np.ndarray) -> float:
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return float(1 - cosines.mean())


@pytest.mark.parametrize("kind", ["text", "items"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "opt"])
def test_terms_are_one_minus_the_mean_cosine(name: str, kind: str) -> None:
    module, data = model(name), samples(kind)
    results = scores(bound(BlockInfluence(), module, data), SINGLES)
    for number, unit in enumerate(data.units):
        states = [plain_states(module, row) for row in unit]
        for index, mask in enumerate(SINGLES):
            expected = np.mean([influence(state[index], state[index + 1]) for state in states])
            assert results[mask].samples[number] == pytest.approx(expected, rel=1e-9)


def test_the_last_block_is_measured_before_the_final_norm() -> None:
    """`output_hidden_states` ends with the normed state, which is easily mistaken for the block's output."""
    module, data = model(), samples("text", 1)
    with torch.no_grad():
        module.model.norm.weight.copy_(torch.linspace(-1, 3, 32))
    (row,) = data.rows
    loss = scores(bound(BlockInfluence(), module, data), SINGLES)[SINGLES[-1]].loss
    with torch.no_grad():
        hidden = module(input_ids=torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
    states = plain_states(module, row)
    assert loss == pytest.approx(influence(states[-2], states[-1]), rel=1e-9)
    assert abs(loss - influence(hidden[-2][0].numpy(), hidden[-1][0].numpy())) > 0.05
