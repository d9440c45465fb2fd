"""Every shortcut of the engine gives the same as one plain forward pass per mask and row."""

from __future__ import annotations

import itertools
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruning.engine.batching
import pruning.engine.forward
import pruning.models.sublayers
from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine.batching import FIRST, Pace
from pruning.engine.forward import BatchReader, Forward
from pruning.engine.head import LIKELIHOOD
from pruning.engine.memory import Tally
from pruning.models.blocks import find_blocks
from pruning.models.model import LanguageModel
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build
from tests.helpers.rows import item_rows, language_model, plain, text_rows

ALL_MASKS = [Mask(N_BLOCKS, d) for k in range(N_BLOCKS) for d in itertools.combinations(range(N_BLOCKS), k)]
SOME_MASKS = [mask for mask in ALL_MASKS if len(mask.dropped) in (0, 1, 4)]
ROWS = {"text": text_rows(9), "items": item_rows(6)}


def losses(forward: Forward, rows: tuple[Row, ...], masks: list[Mask]) -> dict[Mask, list[float]]:
    values = {mask: sums for mask, sums, seconds in forward.loglikelihoods(rows, masks) if seconds > 0}
    assert set(values) == set(masks)
    return values


@cache
def module_of(name: str, dtype: torch.dtype) -> Any:
    return build(name).to(dtype)


@cache
def expected_of(name: str, dtype: torch.dtype, kind: str, mask: Mask) -> list[float]:
    return plain(module_of(name, dtype), mask.dropped, ROWS[kind])


def precision(name: str) -> torch.dtype:
    """Mixtures of experts have no float64 kernel."""
    return torch.float32 if name in ("mixtral", "qwen3_moe") else torch.float64


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [30, 4000], ids=["apart", "merged"])
def test_shared_prefixes_equal_one_forward_pass_per_mask(name: str, kind: str, batch_tokens: int) -> None:
    forward = Forward(language_model(module_of(name, torch.float32)), batch_tokens)
    actual = losses(forward, ROWS[kind], SOME_MASKS)
    expected = {mask: expected_of(name, torch.float32, kind, mask) for mask in SOME_MASKS}
    for mask in SOME_MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6, abs=2e-5)
    assert min(actual, key=lambda m: -sum(actual[m])) == min(expected, key=lambda m: -sum(expected[m]))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if precision(name) == torch.float64])
def test_in_float64_they_agree_to_twelve_digits(name: str, kind: str) -> None:
    actual = losses(Forward(language_model(module_of(name, torch.float64))), ROWS[kind], SOME_MASKS)
    for mask in SOME_MASKS:
        assert actual[mask] == pytest.approx(expected_of(name, torch.float64, kind, mask), rel=1e-12)


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_the_loss_of_a_mask_does_not_depend_on_the_other_masks(data: st.DataObject) -> None:
    """The loss is the same to the last bit for any set of masks that are evaluated together."""
    module = module_of("llama", torch.float32)
    masks = data.draw(st.lists(st.sampled_from(ALL_MASKS), min_size=1, max_size=12, unique=True))
    kind = data.draw(st.sampled_from(sorted(ROWS)))
    memory = data.draw(st.sampled_from([None, 1, 5000]))
    forward = Forward(
        language_model(module), batch_tokens=data.draw(st.sampled_from([20, 60])), memory=memory
    )
    together = losses(forward, ROWS[kind], masks)
    alone = {mask: losses(forward, ROWS[kind], [mask])[mask] for mask in masks}
    assert together == alone


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_random_batches_on_any_architecture_equal_plain_passes(data: st.DataObject) -> None:
    name, kind = data.draw(st.sampled_from(sorted(ARCHITECTURES))), data.draw(st.sampled_from(sorted(ROWS)))
    masks = data.draw(st.lists(st.sampled_from(ALL_MASKS), min_size=1, max_size=6, unique=True))
    module, memory = module_of(name, dtype := precision(name)), data.draw(st.sampled_from([None, 1, 5000]))
    forward = Forward(language_model(module), data.draw(st.sampled_from([20, 60, 4000])), memory)
    actual = losses(forward, ROWS[kind], masks)
    expected = {mask: expected_of(name, dtype, kind, mask) for mask in masks}
    for mask in masks:
        tolerance = {"rel": 1e-12} if dtype == torch.float64 else {"rel": 1e-6, "abs": 2e-5}
        assert actual[mask] == pytest.approx(expected[mask], **tolerance)
    assert min(masks, key=lambda m: -sum(actual[m])) == min(masks, key=lambda m: -sum(expected[m]))


def test_prefixes_are_computed_once() -> None:
    forward = Forward(language_model(build("llama")), batch_tokens=4000)
    losses(forward, ROWS["text"], [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)])
    # The path that keeps all blocks so far (5), and after each of 6 forks the remaining blocks.
    assert forward.cost.block_forwards == pytest.approx(5 + sum(range(N_BLOCKS)))
    assert forward.cost.block_forwards_alone == N_BLOCKS * (N_BLOCKS - 1)


def test_a_kill_costs_one_mask_if_masks_are_walked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "size", lambda _: 1)
    forward = Forward(language_model(build("llama")))
    masks = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)]
    evaluations = forward.loglikelihoods(ROWS["text"], masks)
    for _ in range(5):
        next(evaluations)
    assert forward.cost.block_forwards_alone == 5 * (N_BLOCKS - 1), (
        "more masks were computed than were returned"
    )


def test_branches_are_merged_on_a_gpu_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a GPU, and their order of addition, depend on the number of rows, even in float32."""
    module, rows = build("llama"), (Row(tuple(range(3, 13)), (1, 10)),)
    default, merging = Forward(language_model(module)), Forward(language_model(module), merge=True)
    assert default.memory_budget.merged(default.memory_budget.batches(rows)[0], "block") > 1
    monkeypatch.setattr(pruning.engine.forward, "treats_branches_alike", lambda *_: True)
    monkeypatch.setattr(LanguageModel, "device", torch.device("cuda"))
    for forward, merged in ((default, False), (merging, True)):
        forward.memory_budget.check(rows, "block")
        assert (forward.memory_budget.merged(forward.memory_budget.batches(rows)[0], "block") > 1) == merged


def test_a_block_that_no_mask_keeps_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[int] = set()
    original = pruning.models.sublayers.apply

    def noting(blocks: Any, index: int, *rest: Any) -> Any:
        ran.add(index)
        return original(blocks, index, *rest)

    monkeypatch.setattr(pruning.models.sublayers, "apply", noting)
    masks = [Mask(N_BLOCKS, (1, 3, i)) for i in (0, 2, 5)]
    losses(Forward(language_model(build("qwen3"))), ROWS["text"], masks)
    assert ran == {0, 2, 4, 5}


def test_branches_are_merged_only_if_a_batch_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    original = pruning.models.sublayers.apply

    def noting(blocks: Any, index: int, hidden: torch.Tensor, *rest: Any) -> Any:
        widths.append(len(hidden))
        return original(blocks, index, hidden, *rest)

    monkeypatch.setattr(pruning.models.sublayers, "apply", noting)
    module, rows = build("llama"), (Row(tuple(range(3, 13)), (1, 10)),)
    masks = [Mask(N_BLOCKS, (i,)) for i in range(N_BLOCKS)]
    losses(Forward(language_model(module), batch_tokens=30), rows, masks)
    assert max(widths) == 3, "three lines of ten tokens fit into thirty"
    widths.clear()
    monkeypatch.setitem(pruning.engine.batching.MERGE_OPERATIONS, "cpu", 10)
    monkeypatch.setattr(pruning.engine.batching, "MERGE_TOKENS", 10)
    losses(Forward(language_model(module), batch_tokens=30), rows, masks)
    assert set(widths) == {1}


Seen = tuple[int, float, dict[Mask, list[float]]]


def watched(kind: str, memory: int | None, merge: bool | None) -> Seen:
    """Peak bytes of all tensors while all masks are walked, block forwards, and losses."""
    forward = Forward(language_model(build("llama")), 60, memory, merge=merge)
    losses(forward, ROWS[kind], ALL_MASKS[:1])  # makes the batches and measures their memory
    before = forward.cost.block_forwards
    with Tally() as tally:
        actual = losses(forward, ROWS[kind], ALL_MASKS)
    return tally.most, forward.cost.block_forwards - before, actual


@pytest.mark.parametrize("merge", [False, None], ids=["apart", "merged"])
@pytest.mark.parametrize("kind", ROWS)
def test_memory_bounds_the_peak_and_a_smaller_one_recomputes_more(kind: str, merge: bool | None) -> None:
    most, forwards, expected = watched(kind, None, merge)
    for part, continues in ((0.9, True), (0.3, False)):
        bounded, again, actual = watched(kind, int(part * most), merge)
        assert bounded <= part * most
        assert (again == pytest.approx(forwards)) == continues, "walks go on at kept states if these fit"
        assert forwards - 1e-6 < again < sum(len(mask.kept) for mask in ALL_MASKS)
        assert actual == expected


def test_a_memory_that_holds_no_batch_makes_batches_smaller(caplog: pytest.LogCaptureFixture) -> None:
    _, _, expected = watched("text", None, None)
    bounded, _, actual = watched("text", 30_000, None)
    assert bounded <= 30_000
    assert "forward.memory: continuing with" in caplog.text
    for mask, values in actual.items():
        assert values == pytest.approx(expected[mask], rel=1e-6)


@pytest.mark.parametrize("kind", ROWS)
def test_offloaded_weights_give_the_same_and_only_kept_blocks_are_loaded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import AlignDevicesHook

    masks = [Mask(N_BLOCKS, (1, 4, i)) for i in (0, 2, 5)]
    expected = losses(Forward(language_model(build("qwen3"))), ROWS[kind], masks)
    module = cpu_offload(build("qwen3"), execution_device=torch.device("cpu"))
    forward = Forward(language_model(module))
    find_blocks(module)  # runs the whole model once
    forward.memory_budget.batches(ROWS[kind])  # may run the whole model, too
    loaded: list[int] = []
    original = AlignDevicesHook.pre_forward
    numbers = {id(part): i for i, block in enumerate(module.model.layers) for part in block.modules()}

    def noting(self: Any, part: Any, *args: Any, **kwargs: Any) -> Any:
        if self.offload and id(part) in numbers:
            loaded.append(numbers[id(part)])
        return original(self, part, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", noting)
    actual = losses(forward, ROWS[kind], masks)
    assert set(loaded) == {0, 2, 3, 5}
    for mask in masks:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6)


def test_packing_an_item_needs_fewer_tokens() -> None:
    module, rows = build("llama"), ROWS["items"]
    forward = Forward(language_model(module))
    packed = sum(batch.ids.numel() for batch in forward.memory_budget.batches(rows))
    assert packed < sum(len(row.input_ids) for row in rows)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_choices_are_not_packed_across_a_sliding_window(name: str) -> None:
    forward = Forward(language_model(build(name)))
    assert all(batch.positions is None for batch in forward.memory_budget.batches(ROWS["items"]))


def test_choices_are_not_packed_if_that_changes_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    module, original = build("llama"), type(build("llama")).forward

    def ignoring(self: Any, *, position_ids: Any = None, **rest: Any) -> Any:
        """A model that takes positions and ignores them."""
        return original(self, **rest)

    monkeypatch.setattr(type(module), "forward", ignoring)
    forward = Forward(language_model(module))
    assert all(batch.positions is None for batch in forward.memory_budget.batches(ROWS["items"]))


def test_out_of_memory_halves_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, rows = build("llama"), ROWS["text"]
    expected = losses(Forward(language_model(module), 30), rows, SOME_MASKS)
    original = BatchReader._walk

    lost: list[weakref.ref[torch.Tensor]] = []

    def scarce(self: Forward, batch: Any, masks: Any, *rest: Any) -> Any:
        assert [ref() for ref in lost] == [None] * len(lost), "tensors of a failed pass are still alive"
        if len(masks) * batch.ids.numel() > 100:
            states = torch.ones(1)
            lost.append(weakref.ref(states))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch, masks, *rest)

    monkeypatch.setattr(BatchReader, "_walk", scarce)
    actual = losses(Forward(language_model(module), 4000), rows, SOME_MASKS)
    assert actual.keys() == expected.keys()
    for mask in SOME_MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6)
    assert "out of memory: continuing with" in caplog.text
    assert len(lost) > 1


def test_other_errors_are_not_treated_as_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(BatchReader, "_walk", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        losses(Forward(language_model(build("llama"))), ROWS["text"], SOME_MASKS)


def test_requests_of_other_sizes_have_a_pace_of_their_own() -> None:
    forward = Forward(language_model(build("llama")), patience=10.0)
    forward.pace(8, LIKELIHOOD).note(100, 1.0)
    assert forward.with_scales(None).pace(8, LIKELIHOOD).size() == 1000
    assert forward.pace(64, LIKELIHOOD).size() == FIRST, "64 rows take longer: their time is not known yet"
