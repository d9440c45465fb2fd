"""The Python interface refuses what it cannot do right, and leaves the model as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import pruning
from pruning.calibration.sources import pydoc
from pruning.core.errors import InputError
from tests.helpers.task_files import items_of

TEXTS = list(pydoc("calibration"))[:6]
MASK, OTHER = pruning.Mask(6, (2, 4)), pruning.Mask(6, (1,))
FEW = {"samples": 2, "length": 16}
HEAL = {"texts": TEXTS, "how": "full", "tokens": 512, "length": 16, "batch_tokens": 64, "heldout": 2}
TASKS: dict[str, Any] = {"animals": items_of("animals", 4), "tools": items_of("tools", 4)}
SETS = {"first": MASK, "second": pruning.Mask(6, (3, 5))}
IDS = torch.arange(5, 21)[None]


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


@pytest.fixture
def model(loaded: pruning.PrunableModel) -> pruning.PrunableModel:
    """A model of its own for a test that changes it."""
    return pruning.wrap_model(copy.deepcopy(loaded.module), loaded.tokenizer, "mine")


@pytest.fixture(scope="module")
def router(loaded: pruning.PrunableModel) -> pruning.Router:
    return pruning.fit_router(loaded, TASKS, SETS)


def search(model: pruning.PrunableModel, **settings: Any) -> pruning.SearchResult:
    return pruning.search_mask(model, TEXTS, **{"k": 1, "progress": False, **FEW, **settings})


def logits(module: Any) -> Any:
    with torch.no_grad():
        return module(IDS).logits


def replaced(module: Any) -> list[str]:
    """The modules with a method of their own."""
    return [name for name, part in module.named_modules() if "forward" in vars(part)]


# What uses a model: name -> call(model, folder)
USES: dict[str, Callable[[pruning.PrunableModel, Path], Any]] = {
    "search_mask": lambda model, _: search(model),
    "measure_mask": lambda model, _: pruning.measure_mask(model, MASK, texts=TEXTS[:1], limit=1),
    "repair_mask": lambda model, _: pruning.repair_mask(model, MASK, TEXTS, **FEW),
    "heal_mask": lambda model, _: pruning.heal_mask(model, MASK, **HEAL),
    "export_model": lambda model, folder: pruning.export_model(model, MASK, folder / "out"),
    "fit_router": lambda model, _: pruning.fit_router(model, TASKS, SETS),
    "masked": lambda model, _: model.masked(OTHER).__enter__(),
    "wrap_model": lambda model, _: pruning.wrap_model(model.module, model.tokenizer),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("threads", [False, True])
def test_nothing_else_uses_a_masked_model(
    loaded: pruning.PrunableModel, tmp_path: Path, use: str, threads: bool
) -> None:
    before = logits(loaded.module)
    with ThreadPoolExecutor() as pool, loaded.masked(MASK) as module:
        masked, changed = logits(module), replaced(module)
        call = (lambda *given: pool.submit(USES[use], *given).result(timeout=5)) if threads else USES[use]
        with pytest.raises(InputError, match=rf"{use} .*masked"):
            call(loaded, tmp_path)
        assert torch.equal(logits(module), masked), "the context goes on"
        assert replaced(module) == changed
    assert not replaced(loaded.module)
    assert torch.equal(logits(loaded.module), before)
    assert not list(tmp_path.iterdir())


def test_nor_a_router_a_model_that_is_used(router: pruning.Router) -> None:
    with router.model.masked(MASK):
        for use in (lambda: router.route("Why?"), lambda: router.generate("Why?", max_new_tokens=2)):
            with pytest.raises(InputError, match=r"route .*masked"):
                use()
        with pytest.raises(InputError, match=r"without .*masked"), router.without(OTHER):
            pass
    with router.without(MASK), pytest.raises(InputError, match=r"search_mask .*without"):
        search(router.model)


def test_nor_two_calls_in_two_threads(loaded: pruning.PrunableModel) -> None:
    wanted, started, go_on = search(loaded).loss, threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        started.set()
        assert go_on.wait(20)
        yield TEXTS[0]

    with ThreadPoolExecutor() as pool:
        other = pool.submit(pruning.measure_mask, loaded, MASK, texts=slow(), limit=1)  # type: ignore[arg-type]
        assert started.wait(20)
        with pytest.raises(InputError, match=r"search_mask .*measure_mask"):
            search(loaded)
        with pytest.raises(InputError, match=r"measure .*measure_mask"):
            pruning.SearchResult.measure(_Found(loaded), texts=TEXTS[:1])  # type: ignore[arg-type]
        go_on.set()
        assert other.result().pruned == pruning.measure_mask(loaded, MASK, texts=TEXTS[:1], limit=1).pruned
    assert search(loaded).loss == wanted
    assert not replaced(loaded.module)


class _Found:
    """What `SearchResult.measure` reads of a result."""

    def __init__(self, model: pruning.PrunableModel) -> None:
        self.model, self.mask, self.samples = model, MASK, None


def test_copies_can_be_searched_in_threads(loaded: pruning.PrunableModel) -> None:
    models = [pruning.wrap_model(copy.deepcopy(loaded.module), loaded.tokenizer) for _ in range(3)]
    wanted = search(loaded, k=2).loss
    with ThreadPoolExecutor() as pool:
        assert [one.loss for one in pool.map(lambda one: search(one, k=2), models)] == [wanted] * 3
    assert not any(replaced(one.module) for one in models)


def test_a_call_that_failed_frees_the_model(loaded: pruning.PrunableModel) -> None:
    with pytest.raises(InputError, match="objective"):
        search(loaded, objective="absent")
    with pytest.raises(ZeroDivisionError), loaded.masked(MASK):
        raise ZeroDivisionError
    assert search(loaded).dropped


@pytest.mark.parametrize("use", [use for use in USES if use not in ("masked", "wrap_model")])
def test_a_model_in_training_is_used_without_dropout_and_stays_in_training(
    loaded: pruning.PrunableModel, model: pruning.PrunableModel, tmp_path: Path, use: str
) -> None:
    wanted = USES[use](loaded, tmp_path / "a")
    for layer in model.module.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.module.train()
    model.module.model.layers[3].eval()
    modes = [module.training for module in model.module.modules()]
    found = USES[use](model, tmp_path / "b")
    assert [module.training for module in model.module.modules()] == modes
    if use == "search_mask":
        assert (found.mask, found.loss, found.dense_loss) == (wanted.mask, wanted.loss, wanted.dense_loss)
    elif use == "measure_mask":
        assert found == wanted
    elif use == "fit_router":
        assert found.route("Why is it?").predicted == wanted.route("Why is it?").predicted
        assert found.generate("Why is it?", max_new_tokens=4) == wanted.generate(
            "Why is it?", max_new_tokens=4
        )
        assert [module.training for module in model.module.modules()] == modes
    elif use == "repair_mask":
        assert all(map(torch.equal, found.module.parameters(), wanted.module.parameters()))


@pytest.mark.parametrize("dropped", [(0, 3), (2,)])
def test_a_masked_model_refuses_a_cache(loaded: pruning.PrunableModel, dropped: tuple[int, ...]) -> None:
    from transformers import DynamicCache

    with torch.no_grad(), loaded.masked(pruning.Mask(6, dropped)) as module:
        wanted = module(IDS).logits
        first = module(IDS[:, :8], use_cache=True)
        assert first.past_key_values is None
        with pytest.raises(InputError, match="past_key_values"):
            module(IDS[:, 8:], past_key_values=DynamicCache(config=module.config))
        with pytest.raises(InputError, match="cache"):
            module(IDS[:, 8:], None, None, DynamicCache(config=module.config))
        with pytest.raises(InputError, match="past_key_values"):
            module.model(IDS[:, 8:], past_key_values=DynamicCache(config=module.config))
        with pytest.raises(InputError, match="use_cache"):
            module.generate(IDS, max_new_tokens=2, do_sample=False, use_cache=True, pad_token_id=0)
        assert torch.equal(module(IDS).logits, wanted)
        text = module.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert text.shape[1] <= IDS.shape[1] + 3
    cache = loaded.module(IDS[:, :8], use_cache=True).past_key_values
    assert cache is not None, "afterwards the model has its cache again"
