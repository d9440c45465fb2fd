"""Divergence and uncertainty equal those of the next-token distributions of plain forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pruning.engine.head import Distributions
from pruning.objective import Objective
from pruning.objective.divergence import Divergence
from pruning.objective.uncertainty import Uncertainty, _change
from tests.helpers.objectives import MASKS, bound, model, plain_distributions, samples, scores


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray((np.exp(p) * (p - q)).sum(-1))


def change(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.abs((np.exp(q) * q).sum(-1) - (np.exp(p) * p).sum(-1))


@pytest.mark.parametrize(
    ("objective", "plain"),
    [(Divergence(), divergence), (Uncertainty(), change)],
    ids=["divergence", "uncertainty"],
)
@pytest.mark.parametrize("kind", ["text", "items"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt"])
def test_terms_are_means_over_the_positions_of_a_sample(
    objective: Objective, plain: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str, kind: str
) -> None:
    module, data = model(name), samples(kind)
    results = scores(bound(objective, module, data), MASKS)
    for mask in (MASKS[2], MASKS[-1]):
        for unit, term in zip(data.units, results[mask].samples, strict=True):
            pairs = ([plain_distributions(module, d, row) for d in ((), mask.dropped)] for row in unit)
            assert term == pytest.approx(np.concatenate([plain(p, q) for p, q in pairs]).mean(), rel=1e-9)


def test_the_dense_model_is_projected_once_for_all_masks_of_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.engine import forward
    from pruning.engine.prefix_tree import Pace

    counted: list[int] = []
    original = forward.distributions

    def counting(projection: Any, hidden: Any) -> Any:
        counted.append(len(hidden))
        return original(projection, hidden)

    monkeypatch.setattr(forward, "distributions", counting)
    monkeypatch.setattr(Pace, "size", lambda _: len(MASKS))
    data = samples("text")
    scores(bound(Divergence(), model(), data), MASKS)
    assert sum(counted) == sum(row.span[1] - row.span[0] for row in data.rows)


def test_uncertainty_sees_only_the_entropy_and_its_increases_and_decreases_do_not_cancel() -> None:
    sharp, flat = (torch.tensor([scale, 0.0, 0.0]) for scale in (5.0, 0.0))
    changes = _change(*(Distributions(torch.stack(pair)) for pair in ([sharp, flat], [flat, sharp])))
    assert changes[0] == changes[1] > 0
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    other_tokens = _change(Distributions(logits.flip(-1)), Distributions(logits))
    assert other_tokens == pytest.approx(np.zeros(4), abs=1e-6)
