"""Forward and backward passes give the same as hooks and ordinary autograd on the plain model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from pruning.calibration.samples import Row
from pruning.engine.dense_pass import backward, gate_gradients, states
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from pruning.objective.margin import Margin
from pruning.objective.perplexity import Perplexity
from tests.helpers.architectures import N_BLOCKS
from tests.helpers.objectives import bound, model, plain_states, samples
from tests.helpers.rows import item_rows, language_model, text_rows

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
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
    finally:
        del block.forward
    logs = torch.log_softmax(logits, -1)
    return sum(float(logs[t - 1, row.input_ids[t]]) for t in range(*row.span))


def differences(module: Any, rows: tuple[Row, ...]) -> np.ndarray:
    """Central differences at gate 1, (rows, N)."""
    return np.array(
        [
            [
                (gated(module, i, 1 + STEP, row) - gated(module, i, 1 - STEP, row)) / (2 * STEP)
                for i in range(N_BLOCKS)
            ]
            for row in rows
        ]
    )


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
    actual = gate_gradients(Forward(language_model(module)), rows)
    np.testing.assert_allclose(actual, differences(module, rows), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_lower_precision_gates_are_about_the_same(dtype: torch.dtype) -> None:
    exact = gate_gradients(Forward(language_model(model())), ROWS["text"])
    rough = gate_gradients(Forward(language_model(model(dtype=dtype))), ROWS["text"])
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    np.testing.assert_allclose(rough, exact, atol=tolerance * np.abs(exact).max())


def test_a_mixture_of_experts_has_gates() -> None:
    module = model("qwen3_moe", torch.float32)
    actual = gate_gradients(Forward(language_model(module)), ROWS["text"][:2])
    assert actual.shape == (2, N_BLOCKS)
    assert np.isfinite(actual).all()
    assert (np.abs(actual) > 1e-6).all()


def test_batching_does_not_change_gradients() -> None:
    module, rows = model("qwen3"), ROWS["items"]
    small, large = (gate_gradients(Forward(language_model(module), size), rows) for size in (1, 4000))
    np.testing.assert_allclose(small, large, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("positions", [1, 3])
def test_the_head_is_differentiated_a_few_positions_at_a_time(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, rows = model(), ROWS["text"]
    expected = gate_gradients(Forward(language_model(module)), rows)
    monkeypatch.setattr("pruning.engine.dense_pass.POSITIONS", positions)
    actual = gate_gradients(Forward(language_model(module)), rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_steps_go_back_from_the_last_block_and_leave_no_gradients() -> None:
    module = model()
    for _, steps in backward(Forward(language_model(module)), ROWS["text"], 4000, weights=True):
        ordered = list(steps)
        assert [step.index for step in ordered] == [5, 4, 3, 2, 1, 0]
        for later, earlier in pairwise(ordered):
            torch.testing.assert_close(earlier.after, later.before, rtol=1e-12, atol=1e-12)
        blocks = find_blocks(module).modules
        assert all(len(step.weights) == len(list(blocks[step.index].parameters())) for step in ordered)
    assert all(p.grad is None for p in module.parameters())


def test_a_forward_pass_after_a_backward_pass_is_as_before() -> None:
    forward = Forward(language_model(model()))
    before = list(bound(Perplexity(), forward.model.module, samples("text"))([_mask()]))
    gate_gradients(forward, ROWS["text"])
    after = list(bound(Perplexity(), forward.model.module, samples("text"))([_mask()]))
    assert before[0].samples == after[0].samples


def _mask() -> Any:
    from pruning.core.mask import Mask

    return Mask(N_BLOCKS, (1,))


def test_passes_are_counted_in_block_forwards() -> None:
    forward = Forward(language_model(model()), batch_tokens=30)
    list(states(forward, ROWS["text"]))
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS)
    assert forward.cost.forward_seconds > 0
    gate_gradients(forward, ROWS["text"])
    assert forward.cost.block_forwards == pytest.approx(N_BLOCKS + N_BLOCKS + 3 * N_BLOCKS)


def test_gates_need_no_weights_in_memory() -> None:
    from accelerate import cpu_offload

    rows = ROWS["text"]
    expected = gate_gradients(Forward(language_model(model())), rows)
    module = cpu_offload(model(), execution_device=torch.device("cpu"))
    np.testing.assert_allclose(gate_gradients(Forward(language_model(module)), rows), expected, rtol=1e-9)
