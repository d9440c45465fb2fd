"""Passes through the dense model give the same as hooks and ordinary autograd; losses in float32; times of units."""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pruning.calibration.samples import Row
from pruning.core.mask import Mask
from pruning.engine import dense_pass
from pruning.engine.dense_pass import float32_bytes, gate_gradients, in_float32, states, unit_times
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, OTHERS, build
from tests.helpers.objectives import MASKS, bound, model, plain_states, samples
from tests.helpers.rows import item_rows, language_model, loglik, text_rows

ROWS = {"text": text_rows(9), "items": item_rows(6)}
STEP = 1e-5


def exact(name: str) -> Any:
    """A float64 model whose RMS norms compute in float64 too: those of transformers round to float32."""
    module = model(name)
    for part in module.modules():
        if type(part).__name__.endswith("RMSNorm"):
            part.forward = _norm(part, plus=float(name == "gemma3"))
    return module


def _norm(part: Any, plus: float) -> Any:
    eps = getattr(part, "variance_epsilon", None) or part.eps

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (plus + part.weight)

    return forward


def gated(module: Any, index: int, gate: float, row: Row) -> float:
    """A row's log-likelihood with block `index` replaced by h + gate * (F(h) - h)."""
    block = find_blocks(module).modules[index]
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = original(*args, **kwargs)
        if isinstance(output, tuple):
            return (hidden + gate * (output[0] - hidden), *output[1:])
        return hidden + gate * (output - hidden)

    block.forward = forward  # type: ignore[method-assign]
    try:
        return loglik(module, row)
    finally:
        del block.forward


def gates_of(module: Any, rows: tuple[Row, ...] = ROWS["text"], batch_tokens: int = 2048) -> np.ndarray:
    return gate_gradients(Forward(language_model(module), batch_tokens), rows)


def differences(module: Any, rows: tuple[Row, ...]) -> np.ndarray:
    """Central differences at gate 1, (rows, N)."""

    def slope(index: int, row: Row) -> float:
        return (gated(module, index, 1 + STEP, row) - gated(module, index, 1 - STEP, row)) / (2 * STEP)

    return np.array([[slope(index, row) for index in range(N_BLOCKS)] for row in rows])


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2", "gpt_neox", "opt", "phi"])
@pytest.mark.parametrize("batch_tokens", [20, 4000])
def test_states_are_those_at_the_blocks(name: str, kind: str, batch_tokens: int) -> None:
    module, rows, seen = model(name), ROWS[kind], set()
    for lines, hidden in states(Forward(language_model(module), batch_tokens), rows):
        assert len(hidden) == N_BLOCKS + 1
        for line in lines:
            seen.add(line.row)
            expected = plain_states(module, rows[line.row])
            for state, plain in zip(hidden, expected, strict=True):
                actual = state[line.index, : line.length].numpy()
                np.testing.assert_allclose(actual, plain, rtol=1e-9, atol=1e-11)
    assert seen == set(range(len(rows)))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox", "opt", "qwen3"])
def test_gate_gradients_equal_finite_differences(name: str, kind: str) -> None:
    module, rows = exact(name), ROWS[kind][:5]
    np.testing.assert_allclose(gates_of(module, rows), differences(module, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_the_gates_of_perplexity_and_margin_are_those_of_their_terms(name: str) -> None:
    module = exact(name)
    text, items = samples("text", 3), samples("items", 2)
    slopes = differences(module, text.rows)
    tokens = np.array([row.span[1] - row.span[0] for row in text.rows])
    gates = bound(Perplexity(), module, text).gates
    assert gates is not None
    np.testing.assert_allclose(gates("block"), -slopes / tokens[:, None], rtol=1e-5, atol=1e-6)
    slopes = differences(module, items.rows)
    gates = bound(Margin(), module, items).gates
    assert gates is not None
    remaining = iter(slopes)
    for unit, actual in zip(items.units, gates("block"), strict=True):
        each = [next(remaining) / (row.span[1] - row.span[0]) for row in unit]
        wrong = np.mean([s for s, row in zip(each, unit, strict=True) if not row.right], axis=0)
        right = next(s for s, row in zip(each, unit, strict=True) if row.right)
        np.testing.assert_allclose(actual, wrong - right, rtol=1e-5, atol=1e-6)


def test_a_mixture_of_experts_has_gates_and_weights_can_be_on_disk() -> None:
    from accelerate import cpu_offload

    actual = gates_of(model("qwen3_moe", torch.float32), ROWS["text"][:2])
    assert actual.shape == (2, N_BLOCKS)
    assert np.isfinite(actual).all()
    assert (np.abs(actual) > 1e-6).all()
    offloaded = cpu_offload(model(), execution_device=torch.device("cpu"))
    np.testing.assert_allclose(gates_of(offloaded), gates_of(model()), rtol=1e-9)


def test_passes_are_counted_in_block_forwards() -> None:
    forward = Forward(language_model(model()), batch_tokens=30)
    list(states(forward, ROWS["text"]))
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS)
    assert forward.cost.forward_seconds > 0
    gate_gradients(forward, ROWS["text"])
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS + N_BLOCKS + 3 * N_BLOCKS)


# Losses in float32 of a model in half precision: the same weights, another rounding.

SCALES = (1.7, 0.8, 1.2, 1.05, 2.5, 1.0)


def half(scales: tuple[float, ...] | None = None) -> Forward:
    return Forward(language_model(build("llama").bfloat16()), scales=scales)


@pytest.mark.parametrize("scales", [None, SCALES])
def test_the_passes_use_the_rounded_weights_and_compute_in_float32(scales: tuple[float, ...] | None) -> None:
    forward = half(scales)
    single = in_float32(forward)
    assert single is not None
    exact = copy.deepcopy(forward.model.module).double()
    plain = Forward(language_model(exact), scales=scales)
    near, far = ({m: t for m, t, _ in f.loglikelihoods(ROWS["text"], MASKS)} for f in (single, plain))
    for mask in MASKS:
        np.testing.assert_allclose(near[mask], far[mask], rtol=1e-5)
    assert forward.model.module.dtype == torch.bfloat16
    assert single.cost is forward.cost


def test_in_full_precision_or_without_memory_there_are_no_passes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert in_float32(Forward(language_model(build("llama")))) is None
    monkeypatch.setattr(dense_pass, "free_memory", lambda _: 1000)
    assert in_float32(half()) is None


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_the_passes_equal_those_of_a_float32_copy(name: str) -> None:
    forward = Forward(language_model(build(name).bfloat16()))
    single = in_float32(forward)
    assert single is not None
    assert single.model.module.dtype == torch.float32
    plain = Forward(language_model(copy.deepcopy(forward.model.module).float()))
    near, far = ([*f.loglikelihoods(ROWS["text"], MASKS)] for f in (single, plain))
    assert [found[:2] for found in near] == [found[:2] for found in far], "equal bits"


def test_the_passes_share_the_matrices_and_keep_their_states() -> None:
    forward = half()
    found, run = [], []
    for masks in (
        [Mask(N_BLOCKS, (4,)), Mask(N_BLOCKS, (5,))],
        [Mask(N_BLOCKS, (4, 5)), Mask(N_BLOCKS, (3, 5))],
    ):
        single, before = in_float32(forward), forward.cost.block_forwards
        assert single is not None
        found.append({mask: terms for mask, terms, _ in single.loglikelihoods(ROWS["text"], masks)})
        run.append(forward.cost.block_forwards - before)
    # With kept states, the second request runs only unit 4 of the mask (3, 5).
    assert run == [pytest.approx(6), pytest.approx(1)]
    own, shared = forward.model.module, {id(weight) for weight in single.model.module.parameters()}
    copied = {name for name, weight in own.named_parameters() if id(weight) not in shared}
    assert {weight.dtype for weight in own.parameters()} == {torch.bfloat16}
    assert copied == {name for name, _ in own.named_parameters() if "norm" in name or "embed" in name}
    sizes = {name: weight.numel() for name, weight in own.named_parameters()}
    assert float32_bytes(own) == 4 * (sum(sizes[name] for name in copied) + max(sizes.values()))
    alone = Forward(single.model)
    for mask, terms, _ in alone.loglikelihoods(ROWS["text"], list(found[1])):
        assert terms == found[1][mask]
    assert forward.with_scales(SCALES).single is None
    forward.release()
    assert forward.single is None


def test_a_model_in_float32_that_no_one_uses_is_freed_without_the_garbage_collector() -> None:
    single = in_float32(half())
    assert single is not None
    gc.disable()
    try:
        list(single.loglikelihoods(ROWS["text"], MASKS))
        copied = weakref.ref(single.model.module)
        view = single.with_scales(None)
        del single
        # A view shares the memory budget of the passes that it comes from.
        list(view.loglikelihoods(ROWS["text"], MASKS))
        assert copied() is not None
        del view
        assert copied() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("unit", "count"), [("sublayer", 2 * N_BLOCKS), ("block", N_BLOCKS)])
def test_each_unit_gets_its_median_seconds_without_the_first_turn(
    unit: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unit i takes i + 1 seconds, and ten times as many in the second of three turns that count."""
    turns = [(i + 1.0) * factor for factor in (1, 10, 1) for i in range(count)]
    clock = iter([0.0] * count + [reading for seconds in turns for reading in (0.0, seconds)])
    monkeypatch.setattr(dense_pass, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = unit_times(language_model(build("llama")), unit, (2, 7), repeats=3)
    assert found == [i + 1.0 for i in range(count)]
    assert next(clock, None) is None
