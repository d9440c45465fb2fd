"""The router from Python: fit, route, generate, save, load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import pruning
from pruning.core.errors import ForeignError, InputError
from tests.helpers.task_files import items_of

SETS = {"first": pruning.Mask(6, (2, 4)), "second": pruning.Mask(6, (3, 5))}
TASKS: dict[str, Any] = {"animals": items_of("animals", 10), "tools": items_of("tools", 10)}
PROMPT = "Question: Which of these tools is it?\nAnswer:"


@pytest.fixture(scope="module")
def model(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


@pytest.fixture(scope="module")
def router(model: pruning.PrunableModel) -> pruning.Router:
    return pruning.fit_router(model, TASKS, SETS)


def test_a_route_is_the_set_with_the_highest_prediction(router: pruning.Router) -> None:
    route = router.route(PROMPT)
    assert set(route.predicted) == set(SETS)
    assert route.predicted[route.chosen] == max(route.predicted.values())
    assert route.mask == SETS[route.chosen]
    assert route.seconds > 0
    assert f"-> {route.chosen}" in str(route)
    asked = router.route("Which of these tools is it?", question=True)
    assert asked.predicted == route.predicted
    assert router.fitted.blocks == 1, "a quarter of six blocks, which no set drops"


def test_the_text_is_that_of_the_exported_model(
    router: pruning.Router, model: pruning.PrunableModel, tmp_path: Path
) -> None:
    route = router.route(PROMPT)
    text = router.generate(PROMPT, max_new_tokens=8)
    smaller = pruning.load_model(
        pruning.export_model(model, route.mask, tmp_path / "smaller"), dtype="float32"
    )
    inputs = smaller.tokenizer(PROMPT, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    ids = smaller.module.generate(**inputs, max_new_tokens=8, do_sample=False)
    wanted = smaller.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == wanted
    assert len(model.module.model.layers) == 6, "the model is whole again"


def test_a_saved_router_chooses_the_same(
    router: pruning.Router, model: pruning.PrunableModel, tmp_path: Path
) -> None:
    folder = router.save(tmp_path / "router")
    wanted = router.route(PROMPT).predicted
    assert pruning.Router.load(folder).route(PROMPT).predicted == pytest.approx(wanted)
    assert pruning.Router.load(folder, model).route(PROMPT).predicted == wanted
    wrapped = pruning.wrap_model(model.module, model.tokenizer)
    assert pruning.Router.load(folder, wrapped).route(PROMPT).predicted == wanted


def test_another_model_is_refused(
    router: pruning.Router, model: pruning.PrunableModel, tmp_path: Path
) -> None:
    info = dataclasses.replace(model.language_model.info, revision="other", dtype="bfloat16")
    other = dataclasses.replace(model, language_model=dataclasses.replace(model.language_model, info=info))
    with pytest.raises(ForeignError, match="bfloat16, revision other"):
        pruning.Router.load(router.save(tmp_path / "router"), other)
    wrapped = pruning.wrap_model(model.module, model.tokenizer)
    place = pruning.fit_router(wrapped, TASKS, SETS).save(tmp_path / "memory")
    with pytest.raises(InputError, match="was in memory"):
        pruning.Router.load(place)
