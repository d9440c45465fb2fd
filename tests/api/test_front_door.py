"""The front door for Python gives what the command line gives, and works on models that are in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pruning
from pruning.algo.beam import Beam
from pruning.calibration.sources import embedded_items, pydoc
from pruning.objective.margin import Margin
from tests.conftest import N_BLOCKS, Command

TEXTS = list(pydoc("calibration"))[:40]
ITEMS = [
    {"question": item.question, "choices": list(item.choices), "answer": item.answer}
    for item in embedded_items("calibration")[:30]
]
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


@pytest.fixture(scope="module")
def wrapped(model_folder: Path) -> pruning.PrunableModel:
    module = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return pruning.wrap_model(module, AutoTokenizer.from_pretrained(model_folder), name="mine")


# The data and the settings of a search; the command line gets the same.
SAME: dict[str, tuple[Any, dict[str, Any]]] = {
    "sub-layers": (TEXTS, {"unit": "sublayer", "ratio": 0.34, "samples": 3, "length": 32}),
    "greedy": (TEXTS, {"algo": "greedy", "k": 2, "seed": 3, "samples": 5, "length": 32}),
    "bayesian": (TEXTS, {"algo": "bayesian", "k": 2, "seed": 3, "samples": 5, "length": 32}),
    "items": (ITEMS, {"objective": Margin(), "algo": Beam(), "k": 2, "samples": 9}),
    "a named calibration": ("pydoc", {"algo": "one_shot", "k": 1, "samples": 4, "length": 24}),
    "that of the objective": (None, {"algo": "one_shot", "k": 1, "objective": "margin", "samples": 5}),
    "both kinds": (None, {"algo": "one_shot", "k": 1, "objective": "weighted", "seed": 3}),
}


@pytest.mark.parametrize("case", SAME)
def test_a_search_gives_what_the_command_line_gives(
    launch: Command, model: pruning.PrunableModel, tmp_path: Path, case: str
) -> None:
    data, settings = SAME[case]
    words = [] if data is None else [f"calibration={data}"]
    if isinstance(data, list):
        records = [{"text": text} for text in TEXTS] if data is TEXTS else ITEMS
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        words = [f"calibration={'text_file' if data is TEXTS else 'items_file'}", f"calibration.path={path}"]
    for name, value in settings.items():
        option = value if isinstance(value, str | int | float) else type(value).__name__.lower()
        words.append(f"{'calibration.' if name in ('samples', 'length') else ''}{name}={option}")
    cell = launch(*words, calibrated=False).result()
    found = pruning.search_mask(model, data, **settings, **QUIET)
    assert found.mask.to_json() == cell["mask"]
    recorded = cell["calibration"]
    assert (found.loss, found.dense_loss) == (recorded["loss"], recorded["dense_loss"])
    assert found.samples.sha256 == recorded["sha256"]
    assert found.margins == cell["margins"]
    assert all(tie.unit == found.mask.unit for tie in found.ties)


def test_what_a_search_shows(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, TEXTS, k=2, samples=6, length=32, **QUIET)
    assert len(found.scores) == 1 + N_BLOCKS + N_BLOCKS - 1
    assert all(len(mask.dropped) == 2 for mask in found.ties)
    assert len(found.ties) == found.margins["tied"]
    assert f"2 of {N_BLOCKS} blocks removed" in str(found)
    assert "runner-up" in str(found)


def test_the_masked_model_runs_and_is_whole_again_afterwards(wrapped: pruning.PrunableModel) -> None:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        whole = wrapped.module(ids).logits
        with wrapped.masked(pruning.Mask(N_BLOCKS, (1, 4))) as module:
            less = module(ids).logits
        assert torch.equal(wrapped.module(ids).logits, whole)
    assert not torch.allclose(less, whole)


def test_measurements_of_a_mask_stand_beside_those_of_the_dense_model(model: pruning.PrunableModel) -> None:
    texts = {"reference": list(pydoc("heldout"))[:4]}
    found = pruning.measure_mask(
        model, pruning.Mask(N_BLOCKS, (2,)), texts=texts, items=ITEMS, window=64, limit=5
    )
    assert set(found.dense) == set(found.pruned) == {
        "ppl/reference", "ppl/reference/stderr", "acc/items", "acc/items/stderr",
    }  # fmt: skip
    nothing = pruning.measure_mask(model, pruning.Mask(N_BLOCKS), texts=texts, window=64, limit=5)
    assert nothing.pruned == nothing.dense
    assert "->" in str(found)


def test_a_mask_is_not_judged_on_its_calibration_data(model: pruning.PrunableModel) -> None:
    found = pruning.search_mask(model, ITEMS, k=1, objective="margin", samples=30, **QUIET)
    with pytest.raises(pruning.InputError, match=r"30 of 30 items.*allow_overlap=True"):
        found.measure(items=ITEMS)
    assert found.measure(items=ITEMS, allow_overlap=True).pruned.keys() >= {"acc/items"}


def test_held_out_texts_are_checked_before_the_search_and_measured_after_it(
    model: pruning.PrunableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"k": 1, "algo": "one_shot", "samples": 4, "length": 32}
    other = list(pydoc("heldout"))[:3]
    found = pruning.search_mask(model, TEXTS, heldout=other, **sizes, **QUIET)
    assert found.measure(window=64, limit=3) == found.measure(texts=other, window=64, limit=3)
    monkeypatch.setattr("pruning.api.search.solve", None)
    with pytest.raises(pruning.InputError, match=r"\d+ of \d+ windows.*allow_overlap=True"):
        pruning.search_mask(model, TEXTS, heldout=TEXTS, **sizes, **QUIET)


def test_a_wrapped_model_is_exported_as_the_masked_model(
    wrapped: pruning.PrunableModel, tmp_path: Path
) -> None:
    mask = pruning.Mask(N_BLOCKS, (0, 3))
    folder = pruning.export_model(wrapped, mask, tmp_path / "smaller")
    smaller = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), wrapped.masked(mask) as module:
        assert torch.equal(smaller(ids).logits, module(ids).logits)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---")
    assert "mine-4-of-6-blocks" in card
    written = "".join(
        path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".md", ".yaml")
    )
    assert "/tmp" not in written, "no path of the temporary folder is left"
    with pytest.raises(pruning.InputError, match=r"smaller .*force=true"):
        pruning.export_model(wrapped, pruning.Mask(N_BLOCKS, (1,)), folder)


def test_names_that_do_not_exist_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="serch_mask"):
        pruning.serch_mask  # type: ignore[attr-defined]  # noqa: B018
    assert {"load_model", "search_mask", "export_model"} <= set(dir(pruning))


def test_texts_and_items_can_be_any_iterable(model: pruning.PrunableModel) -> None:
    mask = pruning.Mask(N_BLOCKS, (1,))
    given: dict[str, Any] = {"texts": TEXTS[:5], "items": ITEMS[:4]}
    once: dict[str, Any] = {name: iter(values) for name, values in given.items()}
    assert pruning.measure_mask(model, mask, **once) == pruning.measure_mask(model, mask, **given)
    found = pruning.search_mask(model, iter(TEXTS), k=1, algo="one_shot", samples=2, length=16, **QUIET)  # type: ignore[arg-type]
    assert found.samples.count == 2
