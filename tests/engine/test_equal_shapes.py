"""On request, branches are merged in half precision too, and no loss depends on the other masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pruning.models.units
from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine.forward import Forward
from pruning.engine.memory_budget import FULL_TOKENS
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build
from tests.helpers.rows import item_rows, language_model, text_rows

EXPERTS = ("mixtral", "qwen3_moe")
MASKS = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)] + [Mask(N_BLOCKS, (1, i)) for i in (0, 2, 3, 4, 5)]
ROWS = {"text": text_rows(3), "items": item_rows(3)}


def merging(module: Any, batch_tokens: int = 4000) -> Forward:
    return Forward(language_model(module), batch_tokens, merge=True)


def losses(forward: Forward, rows: tuple[Row, ...], masks: list[Mask]) -> dict[Mask, list[float]]:
    return {mask: sums for mask, sums, _ in forward.loglikelihoods(rows, masks)}


def branches(forward: Forward, rows: tuple[Row, ...]) -> list[int]:
    budget = forward.memory_budget
    return [budget.merged(batch) for batch in budget.batches(rows)]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in EXPERTS])
def test_a_loss_does_not_depend_on_the_other_masks(name: str, kind: str) -> None:
    module, rows = build(name).bfloat16(), ROWS[kind]
    assert max(branches(merging(module), rows)) > 1
    together = losses(merging(module), rows, MASKS)
    for mask in MASKS:
        assert losses(merging(module), rows, [mask])[mask] == together[mask], "alone"
    some = losses(merging(module), rows, MASKS[2:7])
    assert some == {mask: together[mask] for mask in MASKS[2:7]}, "with fewer others"


def test_merged_losses_are_those_of_separate_branches_but_for_rounding() -> None:
    module, rows = build("llama").bfloat16(), ROWS["text"]
    apart, merged = (
        losses(Forward(language_model(module), merge=merge), rows, MASKS) for merge in (None, True)
    )
    for mask in MASKS:
        assert merged[mask] == pytest.approx(apart[mask], rel=0.03)


def test_units_run_on_equally_many_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    module, rows, sizes = build("llama").bfloat16(), (Row(tuple(range(3, 13)), (1, 10)),), []
    forward = merging(module, batch_tokens=40)
    assert branches(forward, rows) == [4]
    original = pruning.models.units.apply

    def noting(blocks: Any, index: int, hidden: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(hidden))
        return original(blocks, index, hidden, *rest)

    monkeypatch.setattr(pruning.models.units, "apply", noting)
    forward.memory_budget.sizes(rows, _likelihood(), MASKS[0], 0)  # this measures memory on one branch
    sizes.clear()
    losses(forward, rows, MASKS)
    assert set(sizes) == {4}


def _likelihood() -> Any:
    from pruning.engine.logprobs import LIKELIHOOD

    return LIKELIHOOD


def test_half_precision_is_merged_only_on_request_and_only_while_it_is_faster() -> None:
    module, rows = build("llama").bfloat16(), (Row(tuple(range(3, 13)), (1, 10)),)
    assert branches(Forward(language_model(module)), rows) == [1]
    assert branches(merging(module), rows) == [FULL_TOKENS // 10]
    long = (Row(tuple(range(3, 53)) * 12, (1, 600)),)
    assert branches(merging(module), long) == [1]


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_not_merged(name: str) -> None:
    assert set(branches(merging(build(name).bfloat16()), ROWS["text"])) == {1}


@pytest.mark.parametrize("index", [0, N_BLOCKS - 1], ids=["first", "last"])
@pytest.mark.parametrize("depends", ["place", "company"])
def test_kernels_that_do_not_treat_branches_alike_are_noticed(
    depends: str, index: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = pruning.models.units.apply

    def uneven(blocks: Any, number: int, hidden: torch.Tensor, *rest: Any) -> Any:
        output = original(blocks, number, hidden, *rest).clone()
        if number == index and depends == "place":
            output[-1] *= 1.01
        if number == index and depends == "company":
            output += hidden.mean() * 10
        return output

    monkeypatch.setattr(pruning.models.units, "apply", uneven)
    assert branches(merging(build("llama").bfloat16()), (Row(tuple(range(3, 13)), (1, 10)),)) == [1]
    assert "do not treat all branches alike" in caplog.text


def test_a_head_that_does_not_treat_branches_alike_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build("llama").bfloat16()
    original = module.lm_head.forward

    def uneven(states: torch.Tensor) -> torch.Tensor:
        logits = original(states)
        logits[0] *= 1.1
        return logits

    monkeypatch.setattr(module.lm_head, "forward", uneven)
    assert branches(merging(module), (Row(tuple(range(3, 13)), (1, 10)),)) == [1]
