"""Python calls with wrong values are refused with the setting and the value, or what is allowed, before a search."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pruning
from pruning.calibration.samples import Row, Samples
from pruning.calibration.sources import pydoc
from pruning.objective.margin import Margin
from tests.helpers.task_files import items_of

TEXTS, ITEMS = list(pydoc("calibration"))[:40], items_of("animals", 10)
DRAWN = Samples("text", "texts", (Row(tuple(range(16)), (1, 16)),), 0)
MASK, PART = pruning.Mask(6, (1,)), pruning.Mask(6, (3,), "sublayer")
WRONG: Any = [2, 3]
ALONE = [{"question": "?", "choices": ["a"], "answer": 0}]
Call = Callable[[pruning.PrunableModel], object]


def search(data: Any = TEXTS, **settings: Any) -> Call:
    return lambda model: pruning.search_mask(model, data, **{"k": 2, "progress": False} | settings)


def repair(data: Any = TEXTS, mask: pruning.Mask = MASK, **settings: Any) -> Call:
    return lambda model: pruning.repair_mask(model, mask, data, **settings)


def router(sets: Any, tasks: Any) -> Call:
    return lambda model: pruning.fit_router(model, tasks, sets)


def other(model: pruning.PrunableModel) -> pruning.PrunableModel:
    """The model with the tokenizer of another one, which has one token more."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens(["garden"])
    return pruning.wrap_model(model.module, tokenizer)


REFUSED: dict[str, tuple[Call, str]] = {
    "objective": (search(objective="perplexit"), "perplexit.*perplexity"),
    "class": (search(algo=Margin()), r"algo=Margin\(\)"),
    "size": (search(k=None), "ratio or k"),
    "too short": (search(samples=10_000_000), r"10000000 .*search_mask\.samples"),
    "kind": (search(objective="margin"), "Margin.*items"),
    "sizes": (search(None, objective="weighted", samples=3), "samples, .*Both"),
    "length of items": (search(ITEMS, objective="margin", length=8), "length, .*items"),
    "blank data": (search([" ", "\n"]), "texts"),
    "one choice": (search(ALONE), "item 0"),
    "samples of samples": (search(DRAWN, samples=1), "search_mask .*samples"),
    "length of samples": (repair(DRAWN, length=8), "repair_mask .*length"),
    "ids": (lambda m: search(["a garden " * 50], samples=1, length=16)(other(m)), "calibration .*512"),
    "ids of texts": (lambda m: pruning.measure_mask(other(m), MASK, texts=["a garden"]), "ppl/texts .*512"),
    "model": (lambda _: pruning.load_model("smolm"), "smolm.*smollm2"),
    "two names": (
        lambda _: pruning.load_model("smollm2", name="mine"),
        "'mine'.*'smollm2'.*first argument.*wrap_model",
    ),
    "model setting": (lambda _: pruning.load_model("smollm2", dtpye="float32"), "dtpye.*dtype"),
    "no mask": (lambda m: m.masked(WRONG).__enter__(), r"\[2, 3\].*pruning\.Mask"),
    "length": (lambda m: pruning.heal_mask(m, MASK, texts=TEXTS, how="full", length=2049), "2049 .*2048"),
    "setting": (repair(ridges=[1.0]), "ridges.*ridge"),
    "samples": (repair(samples=0), r"repair_mask\.samples=0"),
    "one sample": (repair(samples=1), r"2 .*calibration\.samples"),
    "nothing": (repair(mask=pruning.Mask(6)), "mask"),
    "no sets": (router({}, {"a": ITEMS}), "sets .*{NAME: MASK}"),
    "blocks of sets": (router({"a": pruning.Mask(5, (1,))}, {"a": ITEMS}), "a .*5 .*6"),
    "units of sets": (router({"a": MASK, "b": PART}, {"a": ITEMS}), "blocks .*sub-layers"),
    "no items": (router({"a": MASK}, {"a": []}), "0 items"),
    "no choices": (router({"a": MASK}, {"a": [{"question": "x"}]}), "a, item 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_values_are_refused_before_anything_is_computed(
    model_folder: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, named = REFUSED[case]
    monkeypatch.setattr("pruning.api.search.solve", lambda *_: pytest.fail("the search was started"))
    model = pruning.load_model(model_folder, dtype="float32")
    with pytest.raises(pruning.InputError, match=named):
        call(model)
