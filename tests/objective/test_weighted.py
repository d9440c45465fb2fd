from __future__ import annotations

import numpy as np
import pytest

from pruning.core.mask import Mask
from pruning.objective.divergence import Divergence
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from pruning.objective.weighted import Weighted
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import MASKS, bound, model, samples, scores


@pytest.mark.parametrize(
    ("first", "second", "needs"),
    [
        ("perplexity", "margin", "both"),
        ("margin", "perplexity", "both"),
        ("accuracy", "margin", "items"),
        ("perplexity", "divergence", "text"),
        ("block_influence", "margin", "items"),
        ("angular", "divergence", "any"),
    ],
)
def test_it_needs_what_its_parts_need(first: str, second: str, needs: str) -> None:
    assert Weighted(first, second).needs == needs


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_terms_on_the_same_samples_are_mixed_sample_by_sample(name: str, weight: float) -> None:
    module, data = model(name), samples("text")
    mixed = scores(bound(Weighted("perplexity", "divergence", weight), module, data), MASKS)
    a, b = (scores(bound(part, module, data), MASKS) for part in (Perplexity(), Divergence()))
    for mask in MASKS:
        expected = (1 - weight) * np.array(a[mask].samples) + weight * np.array(b[mask].samples)
        assert list(mixed[mask].samples) == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-12)
        assert mixed[mask].loss == pytest.approx(
            (1 - weight) * a[mask].loss + weight * b[mask].loss, abs=1e-12
        )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("order", [("perplexity", "margin"), ("margin", "perplexity")])
def test_losses_on_both_kinds_of_samples_are_mixed(order: tuple[str, str], weight: float) -> None:
    module, data = model(), samples("both")
    mixed = scores(bound(Weighted(*order, weight), module, data), MASKS)
    kinds = {"perplexity": (Perplexity(), "text"), "margin": (Margin(), "items")}
    single = {
        name: scores(bound(objective, module, data.only(kind)), MASKS)
        for name, (objective, kind) in kinds.items()
    }
    for mask in MASKS:
        a, b = (single[name][mask] for name in order)
        assert mixed[mask].loss == pytest.approx((1 - weight) * a.loss + weight * b.loss, rel=1e-12)
        windows = [t for t, u in zip(mixed[mask].samples, data.units, strict=True) if u[0].item is None]
        assert windows == list(single["perplexity"][mask].samples)


def test_gates_are_mixed_if_both_have_them() -> None:
    module, text, both = model(), samples("text"), samples("both")
    perplexity = bound(Perplexity(), module, text).gates
    alike = bound(Weighted("perplexity", "perplexity", 0.3), module, text).gates
    assert perplexity is not None and alike is not None  # noqa: PT018
    np.testing.assert_allclose(alike("block"), perplexity("block"), rtol=1e-12)
    apart = bound(Weighted(), module, both).gates
    margin = bound(Margin(), module, both.only("items")).gates
    assert apart is not None and margin is not None  # noqa: PT018
    is_text = np.array([unit[0].item is None for unit in both.units])
    np.testing.assert_allclose(apart("block")[is_text], perplexity("block"), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(apart("block")[~is_text], margin("block"), rtol=1e-9, atol=1e-12)
    assert bound(Weighted("perplexity", "divergence"), module, text).gates is None


def test_masks_are_yielded_as_soon_as_both_have_scored_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process is killed, only one group of masks is lost, not all masks of the first objective."""
    monkeypatch.setattr("pruning.engine.prefix_tree.PATIENCE", 1e-6)
    loss = bound(Weighted("perplexity", "divergence"), model(), samples("text"))
    terms = loss.terms(MASKS)
    assert next(terms)[0] in MASKS
    assert len(list(terms)) == len(MASKS) - 1


def test_the_error_is_that_of_two_independent_parts() -> None:
    data = samples("both")
    loss = bound(Weighted(weight=0.25), model(), data)
    (score,) = scores(loss, [Mask(N_BLOCKS, (2,))]).values()
    text = (
        data.only("text")
        .estimate()
        .error([t for t, u in zip(score.samples, data.units, strict=True) if u[0].item is None])
    )
    items = (
        data.only("items")
        .estimate()
        .error([t for t, u in zip(score.samples, data.units, strict=True) if u[0].item is not None])
    )
    assert loss.estimate.error(score.samples) == pytest.approx(np.hypot(0.75 * text, 0.25 * items))
