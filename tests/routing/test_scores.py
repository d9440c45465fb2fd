"""Scores of items: one walk gives what a pass for each mask gives; accuracy and margin are those of cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.api.model import PrunableModel, load_model
from pruning.calibration.item_files import read_item
from pruning.calibration.items import ItemDraw
from pruning.calibration.samples import Samples
from pruning.core.mask import Mask
from pruning.evaluation.heldout import item_accuracy
from pruning.objective.likelihood import Margin
from pruning.routing.set_scores import ItemScores, score_items
from pruning.runs.cell import ForwardSettings
from pruning.runs.loaded_cell import forward_with
from tests.helpers.task_files import items_of

MASKS = [Mask(6), Mask(6, (1, 3)), Mask(6, (4,)), Mask(6, (1, 3))]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> PrunableModel:
    return load_model(model_folder, dtype="float32")


@pytest.fixture(scope="module")
def samples(tokenizer: Any) -> Samples:
    items = [read_item(one, "item") for one in items_of("animals", 9)]
    items += [read_item({"question": "Is it so?", "choices": ["yes", "no"], "answer": 1}, "item")]
    return ItemDraw(len(items), 0).rows(items, tokenizer, "items")


def test_the_cross_table_equals_an_evaluation_of_each_mask(model: PrunableModel, samples: Samples) -> None:
    scores = score_items(forward_with(ForwardSettings(), model.language_model), samples, MASKS)
    for number, mask in enumerate(MASKS):
        alone = forward_with(ForwardSettings(), model.language_model)
        (found,) = Margin().bind(alone, samples)([mask])
        assert scores.margin[number].mean() == pytest.approx(found.loss, abs=1e-9)
        assert scores.margin[number] == pytest.approx(found.samples, abs=1e-9)
        measured = item_accuracy("acc/x", alone, samples, mask).metrics["acc/x"]
        assert scores.hits[number].mean() == pytest.approx(measured, abs=1e-12)
    assert (scores.sums[1] == scores.sums[3]).all(), "equal masks are scored once"


def test_ties_share_the_point_of_a_right_answer() -> None:
    scores = ItemScores(
        np.array([[-2.0, -1.0, -4.0, -1.0, -1.0]]),
        np.array([2, 1, 1, 1, 1]),
        np.array([0, 0, 0, 1, 1]),
        np.array([True, False, False, False, True]),
    )
    assert scores.hits.tolist() == [[0.5, 0.5]]
    assert scores.loglikelihood.tolist() == [[-1.0, -1.0]]
    assert (scores.target("margin") == -scores.margin).all()
    assert scores.margin.tolist() == [[pytest.approx((-1 - 4) / 2 + 1), 0.0]]


def test_random_labels_mark_one_choice_of_each_item(samples: Samples, model: PrunableModel) -> None:
    scores = score_items(forward_with(ForwardSettings(), model.language_model), samples, MASKS[:1])
    labels = [scores.random_labels(np.random.default_rng(seed)) for seed in range(200)]
    per_item = np.add.reduceat(
        np.array(labels, dtype=int), np.flatnonzero(np.diff(scores.item, prepend=-1)), axis=1
    )
    assert (per_item == 1).all()
    assert np.mean(labels, axis=0)[-1] == pytest.approx(0.5, abs=0.15)
    assert np.mean(labels, axis=0)[0] == pytest.approx(1 / 3, abs=0.15)
