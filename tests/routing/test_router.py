"""The head finds a planted relation, and a router with one set always chooses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

MODEL = {
    "settings": None,
    "revision": "memory",
    "n_blocks": 6,
    "dtype": "float32",
    "weights_sha256": "a" * 64,
}


def planted(seed: int, count: int, sets: int = 3, noise: float = 0.05) -> tuple[Floats, Floats]:
    """Features (count, 6), and log-likelihoods (sets, count) that are linear in them but for noise."""
    weights = np.random.default_rng(0).normal(size=(6, sets))
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)) * [1, 5, 0.1, 1, 1, 1]
    targets = features @ weights - 2 + noise * rng.normal(size=(count, sets))
    return features, targets.T


def fit_router(sets: Any, features: Floats, targets: Floats, settings: RouterSettings) -> FittedRouter:
    return FittedRouter(sets, fit_head(features, targets.T, settings), 1, "Q: {question}", settings)


@pytest.fixture
def few_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates instead of seven, each of which is fitted to every fold."""
    monkeypatch.setattr(heads, "DECAYS", heads.DECAYS[2:4])


@pytest.mark.usefixtures("few_decays")
@pytest.mark.parametrize(("head", "least"), [("ridge", 0.99), ("mlp", 0.9)])
def test_a_linear_relation_is_found_on_new_prompts(head: str, least: float) -> None:
    features, targets = planted(1, 400)
    fitted = fit_head(features, targets.T, RouterSettings(head=head, hidden=32))
    new, true = planted(2, 300)
    predicted = fitted.predict(new).T
    shares = explained(predicted, true)
    assert min(shares.values()) > least
    assert (routes(predicted) == true.argmax(axis=0)).mean() > 0.9


def test_on_noise_the_strength_grows_until_nothing_is_predicted() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_head(rng.normal(size=(80, 40)), rng.normal(size=(80, 3)), RouterSettings())
    predicted = fitted.predict(rng.normal(size=(200, 40)))
    assert predicted.std(axis=0).max() < 0.25
    assert fitted.relative.strength > 100


def test_with_one_set_every_prompt_gets_it() -> None:
    features, targets = planted(1, 30, sets=1)
    router = fit_router({"only": Mask(6, (2,))}, features, targets, RouterSettings())
    predicted = router.head.predict(features).T
    assert predicted.shape == (1, 30)
    assert routes(predicted).tolist() == [0] * 30
    assert explained(predicted, targets)["relative"] == 0.0


@pytest.mark.usefixtures("few_decays")
@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_a_router_is_the_same_after_it_was_saved(tmp_path: Path, head: str) -> None:
    features, targets = planted(1, 40)
    sets = {"a": Mask(6, (1,)), "b": Mask(6, (2, 3)), "c": Mask(6, (1, 4))}
    router = fit_router(sets, features, targets, RouterSettings(head=head, hidden=4))
    router_files.save_router(tmp_path, router, MODEL)
    again, model = router_files.read_router(tmp_path)
    assert model == MODEL
    assert (again.sets, again.blocks, again.template, again.settings) == (
        *(router.sets, router.blocks, router.template, router.settings),
    )
    assert (again.head.predict(features) == router.head.predict(features)).all()


def test_a_folder_without_a_router_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no router\.json"):
        router_files.read_router(tmp_path)
    features, targets = planted(1, 20)
    router = fit_router({"a": Mask(6, (1,))}, features, targets[:1], RouterSettings())
    router_files.save_router(tmp_path, router, MODEL)
    (tmp_path / router_files.HEAD).write_bytes(b"torn")
    with pytest.raises(DamagedError, match=r"router\.npz is damaged"):
        router_files.read_router(tmp_path)
    router_files.save_router(tmp_path, router, MODEL)
    record = read_json(tmp_path / router_files.ROUTER)
    write_json(tmp_path / router_files.ROUTER, {name: v for name, v in record.items() if name != "sets"})
    with pytest.raises(DamagedError, match="sets"):
        router_files.read_router(tmp_path)
