"""`repair_mask` folds the maps that a cell measures, and the copy is measured, healed and exported like any model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pruning
from pruning.calibration.sources import pydoc
from pruning.evaluation.heldout import Heldout
from pruning.runs.cell import forward_of
from tests.conftest import Command

TEXTS = list(pydoc("calibration"))[:40]
HELDOUT = list(pydoc("heldout"))[:4]
FIT = {"samples": 6, "length": 32}
pytestmark = pytest.mark.usefixtures("every_map_is_kept")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> pruning.PrunableModel:
    return pruning.load_model(model_folder, dtype="float32")


def test_a_repair_is_that_of_the_command_line(launch: Command, model: pruning.PrunableModel) -> None:
    words = ("algo=one_shot", "k=2", "compensation=linear", "calibration=pydoc")
    cell = launch(*words, "calibration.samples=6", "calibration.length=32").result()
    mask = pruning.Mask.from_json(cell["mask"])
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    repaired = pruning.repair_mask(model, mask, "pydoc", **FIT)
    assert all(torch.equal(weight, before[name]) for name, weight in model.module.named_parameters())

    data = Heldout(samples=2, length=32, items=6).data(model.tokenizer)
    forward = forward_of(repaired.language_model)
    measured = Heldout().measure(forward, "ppl/heldout", data["ppl/heldout"], mask).metrics
    assert measured["ppl/heldout"] == cell["evaluation"]["pruned"]["ppl/heldout"]
    assert measured["ppl/heldout"] != cell["evaluation"]["uncompensated"]["ppl/heldout"]


def test_a_repaired_mask_is_exported_as_it_is_measured(model: pruning.PrunableModel, tmp_path: Path) -> None:
    found = pruning.search_mask(model, TEXTS, k=2, algo="one_shot", progress=False, **FIT)
    repaired = pruning.repair_mask(model, found.mask, found.samples)
    folder = pruning.export_model(repaired, found.mask, tmp_path / "out")
    loaded = pruning.load_model(folder, dtype="float32")
    assert loaded.n_blocks == model.n_blocks - 2
    inside = pruning.measure_mask(repaired, found.mask, texts=HELDOUT, window=64).pruned
    outside = pruning.measure_mask(loaded, pruning.Mask(loaded.n_blocks), texts=HELDOUT, window=64).dense
    assert outside["ppl/texts"] == pytest.approx(inside["ppl/texts"], rel=1e-6)
    plain = pruning.measure_mask(model, found.mask, texts=HELDOUT, window=64).pruned
    assert inside["ppl/texts"] != plain["ppl/texts"]


def test_a_repaired_mask_can_be_healed(model: pruning.PrunableModel) -> None:
    mask = pruning.Mask.parse(6, "2,4")
    repaired = pruning.repair_mask(model, mask, TEXTS, **FIT)
    short = {"length": 32, "batch_tokens": 256, "heldout": 4, "lr": 0.003, "eval_every": 4}
    healed = pruning.heal_mask(repaired, mask, texts=TEXTS, tokens=4096, how="full", **short)
    values = [
        pruning.measure_mask(one, mask, texts=HELDOUT, window=64).pruned["ppl/texts"]
        for one in (repaired, healed)
    ]
    assert values[1] < values[0]


def test_masks_and_weights_of_one_folder_do_not_continue_each_other(
    model: pruning.PrunableModel, tmp_path: Path
) -> None:
    short = {"length": 32, "batch_tokens": 256, "heldout": 4, "lr": 0.003, "tokens": 1024, "how": "full"}
    first, second = pruning.Mask.parse(6, "3,5"), pruning.Mask.parse(6, "0,1")
    alone = pruning.heal_mask(model, second, texts=TEXTS, **short)
    once = pruning.heal_mask(model, first, texts=TEXTS, folder=tmp_path, **short)
    after = pruning.heal_mask(model, second, texts=TEXTS, folder=tmp_path, **short)
    more = pruning.heal_mask(once, first, texts=TEXTS, folder=tmp_path, **short)
    assert equal(alone, after)
    assert not equal(once, more), "other weights begin anew"
    assert equal(once, pruning.heal_mask(model, first, texts=TEXTS, folder=tmp_path, **short))


def equal(one: pruning.PrunableModel, other: pruning.PrunableModel) -> bool:
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
