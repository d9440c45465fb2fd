"""The head finds a planted relation, a router with one set always chooses it, and its files hold all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import Mask
from pruning.core.storage import read_json, write_json
from pruning.routing import fitted_router as heads
from pruning.routing import router_files
from pruning.routing.fitted_router import FittedRouter, fit_head
from pruning.routing.router_settings import RouterSettings
from pruning.routing.set_scores import Floats, explained, routes

SETS = {"a": Mask(6, (1,)), "b": Mask(6, (2, 3)), "c": Mask(6, (1, 4))}
MODEL = {
    "settings": None,
    "revision": "memory",
    "n_blocks": 6,
    "dtype": "float32",
    "weights_sha256": "a" * 64,
}


def planted(seed: int, count: int, sets: int = 3, noise: float = 0.05) -> tuple[Floats, Floats]:
    """Features (count, 6), and log-likelihoods (count, sets) that are linear in them but for noise."""
    weights = np.random.default_rng(0).normal(size=(6, sets))
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)) * [1, 5, 0.1, 1, 1, 1]
    return features, features @ weights - 2 + noise * rng.normal(size=(count, sets))


@pytest.fixture(autouse=True)
def few_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates instead of seven, each of which is fitted to every fold."""
    monkeypatch.setattr(heads, "DECAYS", heads.DECAYS[2:4])


@pytest.mark.parametrize(("head", "least"), [("ridge", 0.99), ("mlp", 0.9)])
def test_a_linear_relation_is_found_on_new_prompts(head: str, least: float) -> None:
    fitted = fit_head(*planted(1, 400), RouterSettings(head=head, hidden=32))
    new, true = planted(2, 300)
    predicted = fitted.predict(new)
    assert min(explained(predicted.T, true.T).values()) > least
    assert (routes(predicted.T) == true.argmax(axis=1)).mean() > 0.9


def test_on_noise_the_strength_grows_until_nothing_is_predicted() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_head(rng.normal(size=(80, 40)), rng.normal(size=(80, 3)), RouterSettings())
    assert fitted.predict(rng.normal(size=(200, 40))).std(axis=0).max() < 0.25
    assert fitted.relative.strength > 100


def test_with_one_set_every_prompt_gets_it() -> None:
    features, targets = planted(1, 30, sets=1)
    predicted = fit_head(features, targets, RouterSettings()).predict(features).T
    assert predicted.shape == (1, 30)
    assert routes(predicted).tolist() == [0] * 30
    assert explained(predicted, targets.T)["relative"] == 0.0


@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_a_router_is_the_same_after_it_was_saved_and_damage_is_named(tmp_path: Path, head: str) -> None:
    with pytest.raises(InputError, match=r"router\.json"):
        router_files.read_router(tmp_path)
    features, targets = planted(1, 40)
    settings = RouterSettings(head=head, hidden=4)
    router = FittedRouter(SETS, fit_head(features, targets, settings), 1, "Q: {question}", settings)
    router_files.save_router(tmp_path, router, MODEL)
    again, model = router_files.read_router(tmp_path)
    assert model == MODEL
    for name in ("sets", "blocks", "template", "settings"):
        assert getattr(again, name) == getattr(router, name)
    assert (again.head.predict(features) == router.head.predict(features)).all()
    record = read_json(tmp_path / router_files.ROUTER)
    write_json(tmp_path / router_files.ROUTER, {name: v for name, v in record.items() if name != "sets"})
    with pytest.raises(DamagedError, match="sets"):
        router_files.read_router(tmp_path)
    (tmp_path / router_files.HEAD).write_bytes(b"torn")
    with pytest.raises(DamagedError, match=r"router\.npz"):
        router_files.read_router(tmp_path)
