"""A map is kept only if it helps on samples that it was not fitted on, in each of their sources."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from pruning.core.mask import Mask
from pruning.core.records import is_repaired
from pruning.engine import repair as repairs
from pruning.engine.compensation import Linear
from pruning.engine.forward import Forward
from pruning.engine.repair import heldout_rows
from pruning.models.output_maps import Repair, folded_weights, replaced
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import model, samples
from tests.helpers.rows import language_model, plain

MASK = Mask(N_BLOCKS, (1, 4))
RIDGES = [1.0, 10.0, 100.0, 1000.0]
# Windows of two texts in turn.
ROWS = [replace(row, source="ab"[number % 2]) for number, row in enumerate(samples("text", 24).rows)]
DATA = replace(samples("text", 24), rows=tuple(ROWS), source="a + b")


def measured(monkeypatch: pytest.MonkeyPatch, losses: Any) -> Any:
    """The repair of a mask if `losses(maps)` are the losses of the model with some maps, by source."""
    monkeypatch.setattr(repairs._Judge, "_losses", lambda _, maps: losses(maps))
    return repairs.measure(Forward(language_model(model())), DATA, MASK, Linear(ridge=RIDGES))


def change(maps: dict[int, torch.Tensor]) -> float:
    """How far maps are from none: the larger the ridge, the less."""
    return sum(float((one - torch.eye(len(one))).norm()) for one in maps.values())


def test_a_map_that_harms_one_source_gives_way_to_a_weaker_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, limit = list[float](), float("inf")

    def losses(maps: dict[int, torch.Tensor]) -> dict[str, float]:
        sizes.append(change(maps))
        return {"a": -change(maps), "b": max(0.0, change(maps) - limit)}

    measured(monkeypatch, losses)
    strongest = sizes[1]
    limit = 0.7 * strongest
    sizes.clear()
    repair, record = measured(monkeypatch, losses)
    first = record["runs"][0]
    assert next(size for size in sizes[1:] if size > 0) == pytest.approx(strongest)
    assert change({1: repair.maps[1]}) < strongest
    assert first["ridge"] > min(RIDGES)
    assert first["loss_after"]["b"] <= first["loss_before"]["b"]


def test_if_all_maps_harm_there_is_none_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repair, record = measured(monkeypatch, lambda maps: {"a": -change(maps), "b": change(maps)})
    assert repair.maps == {}
    assert not is_repaired(record)
    assert [run["folded"] for run in record["runs"]] == [None, None]
    assert all("b" in run["reason"] for run in record["runs"])
    warned = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert [next(name for name in ("b1", "b4") if name in text) for text in warned] == ["b1", "b4"]
    repair, _ = measured(monkeypatch, lambda maps: {"a": float("nan") if maps else 1.0})
    assert repair.maps == {}, "a loss that is not a number is worse"


def test_the_losses_are_those_of_plain_passes_over_each_source() -> None:
    module = model()
    judge = repairs._Judge(Forward(language_model(module)), DATA, MASK, Linear())
    maps = {1: torch.eye(32) + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))}
    held = heldout_rows(DATA, 4)
    for given in ({}, maps):
        found = judge._losses(given)
        assert set(found) == {"a", "b"}
        with replaced(module, folded_weights(module, Repair(given))):
            for source, loss in found.items():
                rows = [row for n, row in enumerate(DATA.rows) if n in held and row.source == source]
                total = -sum(plain(module, MASK.dropped, rows))
                assert loss == pytest.approx(total / sum(row.span[1] - row.span[0] for row in rows), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "warned"), [("llama", 2, True), ("llama", 40, False), ("gemma3", 2, False)]
)
def test_fewer_tokens_than_dimensions_are_warned_of_unless_maps_are_diagonal(
    name: str, count: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    few = samples("text", count)
    repairs.check(model(name), "block", few)
    assert (f"{sum(len(row.input_ids) for row in few.rows)} tokens" in caplog.text) == warned
