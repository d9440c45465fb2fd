from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pruning.calibration.samples import Samples
from pruning.objective.divergence import Divergence
from tests.helpers.objectives import DENSE, MASKS, bound, model, plain_distributions, samples, scores


def divergences(module: object, dropped: tuple[int, ...], data: Samples) -> list[float]:
    """The mean divergence over the positions of each sample."""
    means = []
    for unit in data.units:
        pairs = [(plain_distributions(module, (), r), plain_distributions(module, dropped, r)) for r in unit]
        p, q = (np.concatenate(side) for side in zip(*pairs, strict=True))
        means.append(float((np.exp(p) * (p - q)).sum(-1).mean()))
    return means


@pytest.mark.parametrize("kind", ["text", "items"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_terms_are_mean_divergences_from_the_dense_model(name: str, kind: str) -> None:
    module, data = model(name), samples(kind)
    results = scores(bound(Divergence(), module, data), MASKS)
    for mask in (MASKS[2], MASKS[-1]):
        assert list(results[mask].samples) == pytest.approx(divergences(module, mask.dropped, data), rel=1e-9)


def test_it_is_positive_if_anything_changed_and_weights_windows_by_their_tokens() -> None:
    data = samples("text")
    results = scores(bound(Divergence(), model(), data), MASKS)
    assert all(score.loss > 0 for mask, score in results.items() if mask != DENSE)
    weights = [row.span[1] - row.span[0] for row in data.rows]
    for score in results.values():
        assert score.loss == pytest.approx(np.average(score.samples, weights=weights), abs=1e-12)


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
