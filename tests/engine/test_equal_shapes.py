"""On request, branches are merged in half precision too, and no loss depends on the other masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import pruning.engine.forward
import pruning.models.sublayers
from pruning.algo.greedy import Greedy
from pruning.calibration.samples import Row, Samples
from pruning.core.mask import Mask, Space
from pruning.engine.batching import FULL_TOKENS
from pruning.engine.forward import Forward
from pruning.engine.head import LIKELIHOOD
from pruning.objective import Calibrated
from pruning.objective.divergence import Divergence
from pruning.objective.perplexity import Perplexity
from pruning.search.choice import Racing
from pruning.search.driver import Problem, solve
from pruning.search.journal import Journal, KnownScores
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build
from tests.helpers.rows import item_rows, language_model, text_rows

EXPERTS = ("mixtral", "qwen3_moe")
MASKS = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)] + [Mask(N_BLOCKS, (1, i)) for i in (0, 2, 3, 4, 5)]
ROWS = {"text": text_rows(3), "items": item_rows(3)}


def merging(module: Any, batch_tokens: int = 4000) -> Forward:
    return Forward(language_model(module), batch_tokens, merge=True)


def losses(forward: Forward, rows: tuple[Row, ...], masks: list[Mask]) -> dict[Mask, list[float]]:
    return {mask: sums for mask, sums, _ in forward.loglikelihoods(rows, masks)}


def branches(forward: Forward, rows: tuple[Row, ...], unit: str = "block") -> list[int]:
    budget = forward.memory_budget
    budget.check(rows, unit)
    return [budget.merged(batch, unit) for batch in budget.batches(rows)]


@pytest.fixture(params=[False, True], ids=["kernels", "shapes"])
def shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `shapes`, the result of each product also depends on its number of rows."""
    original = torch.nn.Linear.forward

    def forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        return original(layer, x) * (1 + rows % 1000 / 2000)

    if request.param:
        monkeypatch.setattr(torch.nn.Linear, "forward", forward)


def alone_equals_together(module: Any, rows: tuple[Row, ...], masks: list[Mask]) -> None:
    forward = merging(module)
    assert max(branches(forward, rows, masks[0].unit)) > 1
    together = losses(forward, rows, masks)
    for mask in masks:
        assert losses(forward.fresh(), rows, [mask])[mask] == together[mask], "alone"
    some = losses(forward.fresh(), rows, masks[2:7])
    assert some == {mask: together[mask] for mask in masks[2:7]}, "with fewer others"


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in EXPERTS])
@pytest.mark.usefixtures("shapes")
def test_a_loss_does_not_depend_on_the_other_masks(name: str, kind: str) -> None:
    alone_equals_together(build(name).bfloat16(), ROWS[kind], MASKS)


@pytest.mark.usefixtures("shapes")
def test_a_loss_of_a_sublayer_mask_does_not_depend_on_the_other_masks() -> None:
    masks = [Mask(N_BLOCKS, (i,), "sublayer") for i in range(2 * N_BLOCKS)]
    alone_equals_together(build("qwen3").bfloat16(), ROWS["text"], masks)


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize("unit", ["block", "sublayer"])
@pytest.mark.parametrize("objective", [Perplexity(), Divergence()], ids=["perplexity", "divergence"])
def test_a_search_with_bounds_finds_the_mask_that_it_finds_without(objective: Any, unit: str) -> None:
    module, samples = build("llama").bfloat16(), Samples("text", "random", ROWS["text"], 0)
    found = []
    for bounds in (False, True):
        forward = replace(merging(module), bounds=bounds)
        known = KnownScores(Journal(None, N_BLOCKS, unit))
        losses_of = Calibrated(objective, forward, samples)
        problem = Problem(Greedy(), Space(N_BLOCKS, 2, unit=unit), 0, Racing())
        found.append(solve(problem, losses_of, known, lambda *_: None).score)
    assert (found[0].mask, found[0].loss) == (found[1].mask, found[1].loss)


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
    original = pruning.models.sublayers.apply

    def noting(blocks: Any, index: int, hidden: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(hidden))
        return original(blocks, index, hidden, *rest)

    monkeypatch.setattr(pruning.models.sublayers, "apply", noting)
    forward.memory_budget.sizes(rows, LIKELIHOOD, MASKS[0], 0)  # this measures memory on one branch
    sizes.clear()
    losses(forward, rows, MASKS)
    assert set(sizes) == {4}


def test_half_precision_is_merged_only_on_request_and_only_while_it_is_faster() -> None:
    module, rows = build("llama").bfloat16(), (Row(tuple(range(3, 13)), (1, 10)),)
    assert branches(Forward(language_model(module)), rows) == [1]
    assert branches(merging(module), rows) == [FULL_TOKENS // 10]
    long = (Row(tuple(range(3, 53)) * 12, (1, 600)),)
    assert branches(merging(module), long) == [1]


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_not_merged(name: str) -> None:
    assert set(branches(merging(build(name).bfloat16()), ROWS["text"])) == {1}


@pytest.mark.parametrize(("name", "index"), [("llama", 0), ("gemma3", 0), ("gemma3", 1)])
@pytest.mark.parametrize("depends", ["place", "company"])
def test_units_that_do_not_treat_branches_alike_are_noticed(
    depends: str, name: str, index: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = pruning.models.sublayers.apply

    def uneven(blocks: Any, number: int, hidden: torch.Tensor, *rest: Any) -> Any:
        output = original(blocks, number, hidden, *rest).clone()
        if number == index and depends == "place":
            output[-1] *= 1.01
        if number == index and depends == "company":
            output += hidden.mean() * 10
        return output

    monkeypatch.setattr(pruning.models.sublayers, "apply", uneven)
    assert branches(merging(build(name).bfloat16()), (Row(tuple(range(3, 13)), (1, 10)),)) == [1]
    assert "not all branches are treated alike" in caplog.text


def test_a_verdict_holds_for_batches_with_equally_many_targets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def alike(model: Any, batch: Any, *_: Any) -> bool:
        asked.append(len(batch.targets))
        return len(batch.targets) == 9

    monkeypatch.setattr(pruning.engine.forward, "treats_branches_alike", alike)
    forward, ids = merging(build("llama").bfloat16()), tuple(range(3, 13))
    assert branches(forward, (Row(ids, (1, 10)),)) == [FULL_TOKENS // 10]
    assert branches(forward, (Row(ids, (4, 10)),)) == [1]
    assert branches(forward, (Row(ids, (1, 10)),)) == [FULL_TOKENS // 10]
    assert asked == [9, 6]


def test_running_out_of_memory_in_the_check_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def out(*_: Any) -> bool:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(pruning.engine.forward, "treats_branches_alike", out)
    assert branches(merging(build("llama").bfloat16()), ROWS["text"])[0] == 1


@pytest.mark.parametrize("unit", ["block", "sublayer"])
def test_with_little_memory_the_first_request_is_merged_as_later_ones(unit: str) -> None:
    module, masks = build("llama").bfloat16(), [Mask(N_BLOCKS, (i,), unit) for i in range(N_BLOCKS)]
    forward = replace(merging(module), memory=300_000)
    first, again = (losses(forward, ROWS["text"], masks) for _ in range(2))
    assert first == again
    assert forward.memory_budget.batch_tokens < 4000
    assert max(branches(forward, ROWS["text"], unit)) > 1


@pytest.mark.parametrize("unit", ["block", "sublayer"])
def test_after_an_error_of_memory_a_filled_pass_gets_smaller(unit: str) -> None:
    forward, rows = merging(build("llama").bfloat16()), (Row(tuple(range(3, 13)), (1, 10)),)
    assert branches(forward, rows, unit) == [FULL_TOKENS // 10]
    forward.memory_budget.shrink(torch.OutOfMemoryError("out of memory"), 32)
    assert branches(forward, rows, unit) == [FULL_TOKENS // 2 // 10]


def test_all_ranks_merge_only_if_all_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.engine.collectives.all_max", lambda _: 1.0)  # another rank cannot
    assert set(branches(merging(build("llama").bfloat16()), ROWS["text"])) == {1}


def test_a_head_that_does_not_treat_branches_alike_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build("llama").bfloat16()
    original = module.lm_head.forward

    def uneven(states: torch.Tensor) -> torch.Tensor:
        logits = original(states)
        logits[0] *= 1.1
        return logits

    monkeypatch.setattr(module.lm_head, "forward", uneven)
    assert branches(merging(module), (Row(tuple(range(3, 13)), (1, 10)),)) == [1]
