from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine.head import Distributions
from pruning.objective.uncertainty import Uncertainty, _change
from tests.helpers.objectives import MASKS, bound, model, plain_distributions, samples, scores


@pytest.mark.parametrize("kind", ["text", "items"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "opt"])
def test_terms_are_mean_changes_of_entropy(name: str, kind: str) -> None:
    module, data = model(name), samples(kind)
    results = scores(bound(Uncertainty(), module, data), MASKS)
    for mask in (MASKS[1], MASKS[-1]):
        for unit, term in zip(data.units, results[mask].samples, strict=True):
            changes = []
            for row in unit:
                p, q = (plain_distributions(module, dropped, row) for dropped in ((), mask.dropped))
                changes.append(np.abs((np.exp(q) * q).sum(-1) - (np.exp(p) * p).sum(-1)))
            assert term == pytest.approx(np.concatenate(changes).mean(), rel=1e-9)


def test_increases_and_decreases_of_entropy_do_not_cancel() -> None:
    sharp, flat = (torch.tensor([scale, 0.0, 0.0]) for scale in (5.0, 0.0))
    changes = _change(*(Distributions(torch.stack(pair)) for pair in ([sharp, flat], [flat, sharp])))
    assert changes[0] == changes[1] > 0


def test_it_does_not_depend_on_which_token_is_predicted() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert _change(Distributions(logits.flip(-1)), Distributions(logits)) == pytest.approx(
        np.zeros(4), abs=1e-6
    )
