"""Settings of a study of tasks, and a router: what it sees, predicts and keeps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.core.errors import DamagedError, InputError
from pruning.core.mask import Mask
from pruning.routing import fitted_router
from pruning.routing.fitted_router import FittedRouter, first_blocks, fit_head, prompt_rows
from pruning.routing.set_scores import Floats, explained, routes
from pruning.routing.task_study import TaskStudy
from tests.helpers.damage import edit_json
from tests.helpers.task_files import task_folder

SETS = {"a": Mask(6, (1,)), "b": Mask(6, (2, 3)), "c": Mask(6, (1, 4))}
MODEL = {"settings": None, "revision": "memory"}


def planted(seed: int, count: int, sets: int = 3, noise: float = 0.05) -> tuple[Floats, Floats]:
    """Features (count, 6), and log-likelihoods (count, sets) that are linear in them but for noise."""
    weights = np.random.default_rng(0).normal(size=(6, sets))
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)) * [1, 5, 0.1, 1, 1, 1]
    return features, features @ weights - 2 + noise * rng.normal(size=(count, sets))


def test_a_linear_relation_is_found_on_new_prompts() -> None:
    fitted = fit_head(*planted(1, 400))
    new, true = planted(2, 300)
    predicted = fitted.predict(new)
    assert min(explained(predicted.T, true.T).values()) > 0.99
    assert (routes(predicted.T) == true.argmax(axis=1)).mean() > 0.9


def test_on_noise_the_strength_grows_until_nothing_is_predicted() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_head(rng.normal(size=(80, 40)), rng.normal(size=(80, 3)))
    assert fitted.predict(rng.normal(size=(200, 40))).std(axis=0).max() < 0.25
    assert fitted.relative.strength > 100


def test_a_router_is_the_same_after_it_was_saved_and_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"router\.json"):
        fitted_router.read_router(tmp_path)
    features, targets = planted(1, 40)
    router = FittedRouter(SETS, fit_head(features, targets), 1, "Q: {question}", "margin")
    fitted_router.save_router(tmp_path, router, MODEL)
    again, model = fitted_router.read_router(tmp_path)
    assert model == MODEL
    for name in ("sets", "blocks", "template", "target"):
        assert getattr(again, name) == getattr(router, name)
    assert (again.head.predict(features) == router.head.predict(features)).all()
    edit_json(tmp_path / fitted_router.ROUTER, blocks=0)
    with pytest.raises(DamagedError, match=str(tmp_path)):
        fitted_router.read_router(tmp_path)


def test_a_router_runs_only_blocks_that_every_set_keeps() -> None:
    sets = [Mask(20, (9, 12)), Mask(20, (3, 4))]
    assert first_blocks(sets) == 3
    assert first_blocks([Mask(20, (9,))]) == 5, "at most a quarter"
    assert first_blocks([Mask(20, (7, 30), "sublayer")]) == 3, "a part of block 3 is dropped"
    assert first_blocks([Mask(20, (0,))]) == 0


def test_prompts_that_are_too_short_or_too_long_are_refused(tokenizer: Any) -> None:
    assert len(prompt_rows(tokenizer, ["What is it?"])[0].input_ids) > 2
    with pytest.raises(InputError, match="prompt '' "):
        prompt_rows(tokenizer, [""])
    with pytest.raises(InputError, match=r"'What is it.* 4: "):
        prompt_rows(tokenizer, ["What is it, and why is it so?"], 4)


def test_each_shown_file_of_items_is_a_task(tmp_path: Path) -> None:
    folder = task_folder(tmp_path / "tasks")
    for name in ("notes.txt", ".a.jsonl", "._animals.jsonl", "._tools.jsonl"):
        (folder / name).write_bytes(b"\0\5\x16\7 no items")
    names = [path.name for path in TaskStudy(folder=str(folder)).files()]
    assert names == ["animals.jsonl", "tools.jsonl"]


@pytest.mark.parametrize(
    ("made", "settings", "named"),
    [
        ((), {"folder": None, "cross": True}, r"^tasks\.folder "),
        ((), {}, r"no \.jsonl or \.json"),
        (("animals",), {"embedded": False}, r"animals\.jsonl.*tasks\.embedded=true"),
        (("animals",), {"folder": "absent"}, r"tasks\.folder=absent"),
        (("animals", "tools", "animals.json"), {}, "'animals'"),
    ],
)
def test_a_folder_without_two_tasks_is_refused(
    tmp_path: Path, made: tuple[str, ...], settings: dict[str, Any], named: str
) -> None:
    folder = task_folder(tmp_path / "tasks", tasks=tuple(name for name in made if "." not in name))
    for name in made:
        if "." in name:
            shutil.copy(folder / "tools.jsonl", folder / name)
    with pytest.raises(InputError, match=named):
        TaskStudy(**({"folder": str(folder)} | settings)).files()


@pytest.mark.parametrize(("name", "value"), [("rewording", "Q:"), ("target", "tree")])
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"tasks\.{name}"):
        TaskStudy(**{name: value}).check()  # type: ignore[arg-type]
