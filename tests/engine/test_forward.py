"""Every shortcut of the engine gives the same as one plain forward pass per mask and row of an altered model."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pruning.models.sublayers
from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine import forward as forward_module
from pruning.engine import memory as memory_module
from pruning.engine.dense_pass import magnitudes
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.models.handle import LanguageModel
from pruning.models.sublayers import find_chain, masked
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, SEQUENTIAL, WIDE, build, zeroed
from tests.helpers.rows import item_rows, language_model, loglik, plain, text_rows

BLOCKS, UNITS = range(N_BLOCKS), range(2 * N_BLOCKS)
ALL_MASKS = [Mask(N_BLOCKS, d) for k in BLOCKS for d in itertools.combinations(BLOCKS, k)]
SOME_MASKS = [mask for mask in ALL_MASKS if len(mask.dropped) in (0, 1, 4)]
SINGLES = [Mask(N_BLOCKS, (i,)) for i in BLOCKS]
SUB_MASKS = [Mask(N_BLOCKS, d, "sublayer") for k in (0, 1, 2) for d in itertools.combinations(UNITS, k)]
SOME_SUB_MASKS = [*SUB_MASKS[:13:3], *SUB_MASKS[13::21], Mask(N_BLOCKS, (0, 2, 3, 5, 6, 7, 11), "sublayer")]
ROWS = {"text": text_rows(9), "items": item_rows(6)}
SHORT = (Row(tuple(range(3, 13)), (1, 10)),)  # one line of ten tokens
NEAR = {torch.float64: {"rel": 1e-12}, torch.float32: {"rel": 1e-6, "abs": 2e-5}}


def losses(forward: Forward, rows: tuple[Row, ...], masks: list[Mask]) -> dict[Mask, list[float]]:
    values = {mask: sums for mask, sums, seconds in forward.loglikelihoods(rows, masks) if seconds > 0}
    assert set(values) == set(masks)
    return values


def alone(forward: Forward, rows: tuple[Row, ...], masks: list[Mask]) -> dict[Mask, list[float]]:
    return {mask: losses(forward, rows, [mask])[mask] for mask in masks}


@cache
def module_of(name: str, dtype: torch.dtype | None = None) -> Any:
    """A tiny model. Mixtures of experts have no float64 kernel."""
    return build(name).to(dtype or (torch.float32 if name in WIDE else torch.float64))


@cache
def expected_of(name: str, dtype: torch.dtype, kind: str, mask: Mask) -> list[float]:
    module = module_of(name, dtype)
    if mask.unit == "sublayer":
        return plain(zeroed(module, mask.dropped), (), ROWS[kind])
    return plain(module, mask.dropped, ROWS[kind])


@contextmanager
def free_memory(size: int) -> Iterator[None]:
    """Within this context, so many bytes are free."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(memory_module, "free_memory", lambda _: size)
        yield


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    ("name", "dtype", "masks", "batch_tokens"),
    [
        *((name, torch.float32, SOME_MASKS, size) for name in ARCHITECTURES for size in (30, 4000)),
        *((name, torch.float64, SOME_MASKS, 2048) for name in ARCHITECTURES if name not in WIDE),
        *((name, module_of(name).dtype, SOME_SUB_MASKS, 2048) for name in SEQUENTIAL),
    ],
)
def test_shared_prefixes_equal_one_forward_pass_per_mask(
    name: str, dtype: torch.dtype, masks: list[Mask], batch_tokens: int, kind: str
) -> None:
    actual = losses(Forward(language_model(module_of(name, dtype)), batch_tokens), ROWS[kind], masks)
    expected = {mask: expected_of(name, dtype, kind, mask) for mask in masks}
    for mask in masks:
        assert actual[mask] == pytest.approx(expected[mask], **NEAR[dtype])
    assert min(actual, key=lambda m: -sum(actual[m])) == min(expected, key=lambda m: -sum(expected[m]))


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_the_loss_of_a_mask_does_not_depend_on_the_other_masks(data: st.DataObject) -> None:
    """For blocks, the loss is the same to the last bit for any set of masks that are evaluated together."""
    masks = data.draw(st.lists(st.sampled_from(ALL_MASKS), min_size=1, max_size=12, unique=True))
    kind, memory = data.draw(st.sampled_from(sorted(ROWS))), data.draw(st.sampled_from([10**9, 1, 20_000]))
    module = module_of("llama", torch.float32)
    forward = Forward(language_model(module), data.draw(st.sampled_from([20, 60])))
    subs = data.draw(st.lists(st.sampled_from(SUB_MASKS), min_size=1, max_size=8, unique=True))
    with free_memory(memory):
        assert losses(forward, ROWS[kind], masks) == alone(forward, ROWS[kind], masks)
        forward = Forward(language_model(module_of("gemma3")), 20)
        together = losses(forward, ROWS[kind], subs)
        assert together == losses(forward, ROWS[kind], subs[::-1])
    for mask, values in alone(Forward(language_model(module_of("gemma3")), 60), ROWS[kind], subs).items():
        assert together[mask] == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_of_whole_blocks_have_the_losses_of_masks_over_blocks(dtype: torch.dtype) -> None:
    forward = Forward(language_model(build("llama").to(dtype)))
    blocks = [mask for mask in ALL_MASKS if len(mask.dropped) <= 2]
    over_blocks = losses(forward, ROWS["text"], blocks)
    over_parts = losses(forward, ROWS["text"], [mask.as_sublayers() for mask in blocks])
    assert all(over_parts[mask.as_sublayers()] == over_blocks[mask] for mask in blocks), "to the last bit"


# What is computed, and what is not.


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The number of each block that runs, and the lines of its batch."""
    seen: list[tuple[int, int]] = []
    original = pruning.models.sublayers.apply

    def noting(blocks: Any, index: int, hidden: torch.Tensor, *rest: Any) -> Any:
        seen.append((index, len(hidden)))
        return original(blocks, index, hidden, *rest)

    monkeypatch.setattr(pruning.models.sublayers, "apply", noting)
    return seen


def test_prefixes_are_computed_once() -> None:
    forward = Forward(language_model(build("llama")), batch_tokens=4000)
    losses(forward, ROWS["text"], SINGLES)
    # The path that keeps all blocks so far (5), and after each of 6 forks the remaining blocks.
    assert forward.cost.block_forwards == pytest.approx(5 + sum(range(N_BLOCKS)))
    assert forward.cost.block_forwards_alone == N_BLOCKS * (N_BLOCKS - 1)


@pytest.mark.parametrize(("most", "runs"), [(1 << 20, 1), (0, 2)], ids=["kept", "no room"])
def test_the_dense_states_are_kept_while_they_are_small(
    most: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_module, "DENSE_BYTES", most)
    model, dense = language_model(build("llama")), [Mask(N_BLOCKS)]
    forward = Forward(model)
    first, again = losses(forward, ROWS["text"], dense), losses(forward, ROWS["text"], dense)
    beside = losses(Forward(model), ROWS["text"], [*dense, *SINGLES])
    assert first == again == {mask: beside[mask] for mask in dense}
    assert forward.cost.block_forwards == pytest.approx(runs * N_BLOCKS)


def test_a_block_forward_is_divided_by_parameters() -> None:
    attention, mlp = find_chain(module_of("llama"), "sublayer").sizes()[:2]
    forward = Forward(language_model(module_of("llama")))
    losses(forward, ROWS["text"], [Mask(N_BLOCKS, (2 * N_BLOCKS - 1,), "sublayer")])
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS - mlp / (attention + mlp))
    assert forward.cost.block_forwards_alone == pytest.approx(N_BLOCKS - mlp / (attention + mlp), abs=1e-3)
    assert forward.n_units("sublayer") == 2 * N_BLOCKS


def test_branches_are_merged_only_if_a_batch_is_small(
    ran: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(Forward(language_model(build("llama")), 30), SHORT, SINGLES)
    assert max(lines for _, lines in ran) == 3, "three lines of ten tokens fit into thirty"
    ran.clear()
    monkeypatch.setattr(memory_module, "MERGE_OPERATIONS", 10)
    monkeypatch.setattr(memory_module, "MERGE_TOKENS", 10)
    losses(Forward(language_model(build("llama")), 30), SHORT, SINGLES)
    assert {lines for _, lines in ran} == {1}


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.float32), ("cpu", torch.bfloat16)])
def test_where_rounding_depends_on_the_rows_branches_are_not_merged(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Forward(language_model(build("llama").to(dtype)))
    (batch,) = forward.batches(SHORT)
    monkeypatch.setattr(LanguageModel, "device", torch.device(device))
    assert forward.memory_budget.merged(batch) == 1


@pytest.mark.parametrize("unit", ["block", "sublayer"])
@pytest.mark.parametrize("kind", ROWS)
def test_offloaded_weights_give_the_same_and_only_kept_units_are_loaded(
    kind: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import AlignDevicesHook

    always, others = ((1, 4), (0, 2, 5)) if unit == "block" else ((1, 2, 8), (0, 5, 10))
    masks = [Mask(N_BLOCKS, (*always, i), unit) for i in others]
    expected = losses(Forward(language_model(build("qwen3"))), ROWS[kind], masks)
    module = cpu_offload(build("qwen3"), execution_device=torch.device("cpu"))
    forward, layers = Forward(language_model(module)), module.model.layers
    parts = layers if unit == "block" else [p for layer in layers for p in (layer.self_attn, layer.mlp)]
    numbers = {id(inner): number for number, part in enumerate(parts) for inner in part.modules()}
    find_blocks(module)  # these run the whole model
    find_chain(module, unit)
    assert forward.memory_budget.merged(forward.batches(ROWS[kind])[0]) > 1, "weights are read once for all"
    loaded: set[int] = set()
    original = AlignDevicesHook.pre_forward

    def noting(self: Any, part: Any, *args: Any, **kwargs: Any) -> Any:
        if self.offload and id(part) in numbers:
            loaded.add(numbers[id(part)])
        return original(self, part, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", noting)
    actual = losses(forward, ROWS[kind], masks)
    assert loaded == {*range(masks[0].n_units)} - {*always}
    for mask in masks:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6)


def test_choices_are_packed_unless_the_model_cannot_or_it_changes_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ROWS["items"]
    packed = Forward(language_model(build("llama"))).batches(rows)
    assert sum(batch.ids.numel() for batch in packed) < sum(len(row.input_ids) for row in rows)
    original = type(build("llama")).forward

    def ignoring(self: Any, *, position_ids: Any = None, **rest: Any) -> Any:
        return original(self, **rest)

    for name in ("mistral", "gemma3", "llama"):  # two with a sliding window; one that ignores positions
        if name == "llama":
            monkeypatch.setattr(type(build("llama")), "forward", ignoring)
        assert all(batch.positions is None for batch in Forward(language_model(build(name))).batches(rows))


# Memory.


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", ROWS)
def test_with_less_free_memory_fewer_states_are_kept_and_more_is_computed_again(
    kind: str, merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not merged:
        monkeypatch.setattr(memory_module, "MERGE_OPERATIONS", 0)
        monkeypatch.setattr(memory_module, "MERGE_TOKENS", 0)
    found: list[tuple[float, dict[Mask, list[float]]]] = []
    for size in (10**9, 400_000, 4_000):
        with free_memory(size):
            forward = Forward(language_model(build("llama")), 60)
            values = losses(forward, ROWS[kind], ALL_MASKS)
            found.append((forward.cost.block_forwards, values))
            assert forward.beginnings.nbytes() <= memory_module.ROOM * size / 2
    assert found[0][0] <= found[1][0] < found[2][0] <= sum(len(mask.kept) for mask in ALL_MASKS)
    assert found[0][1] == found[1][1] == found[2][1]


def test_out_of_memory_halves_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = losses(Forward(language_model(build("llama")), 30), ROWS["text"], SOME_MASKS)
    original, lost = Forward._walk, list[weakref.ref[torch.Tensor]]()

    def scarce(self: Forward, batch: Any, masks: Any, *rest: Any) -> Any:
        assert [ref() for ref in lost] == [None] * len(lost), "tensors of a failed pass are still alive"
        if len(masks) * batch.ids.numel() > 100:
            states = torch.ones(1)
            lost.append(weakref.ref(states))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch, masks, *rest)

    monkeypatch.setattr(Forward, "_walk", scarce)
    actual = losses(Forward(language_model(build("llama")), 4000), ROWS["text"], SOME_MASKS)
    for mask in SOME_MASKS:
        assert actual[mask] == pytest.approx(expected[mask], rel=1e-6)
    assert " masks " in caplog.text
    assert " tokens " in caplog.text
    assert len(lost) > 1


# Factors for missing sub-layers; those of blocks are in test_compensation.py.


def test_a_factor_stands_in_for_each_missing_sub_layer() -> None:
    """Prune&Comp's factors, one for each sub-layer, against a masked model that multiplies its states."""
    module, rows = module_of("gemma3"), ROWS["text"]
    factors = magnitudes(Forward(language_model(module)), rows, "sublayer")
    assert len(factors) == 2 * N_BLOCKS
    masks = [Mask(N_BLOCKS, dropped, "sublayer") for dropped in ((3,), (2, 3), (0, 5, 6, 7))]
    actual = losses(Forward(language_model(module), scales=factors), rows, masks)
    for mask in masks:
        with masked(module, mask, factors):
            assert actual[mask] == pytest.approx([loglik(module, row) for row in rows], rel=1e-9)
