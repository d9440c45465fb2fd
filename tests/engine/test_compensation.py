"""Multiplying the state in place of a removed block equals Prune&Comp's scaling of the earlier weights."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from pruning.engine.dense_pass import magnitudes
from pruning.engine.forward import Forward
from pruning.models.blocks import find_blocks
from tests.helpers.objectives import MASKS, model, plain_states
from tests.helpers.rows import item_rows, language_model, loglik, text_rows

ROWS = {"text": text_rows(9), "items": item_rows(5)}
SCALES = (1.7, 0.8, 1.2, 1.05, 2.5, 1.0)


def scaled(module: Any, factors: dict[int, float]) -> Any:
    """The plain model with some blocks replaced by factors."""
    changed = copy.deepcopy(module)
    for index, factor in factors.items():

        def forward(hidden_states: Any, *_: Any, factor: float = factor, **__: Any) -> Any:
            return hidden_states * factor

        find_blocks(changed).modules[index].forward = forward  # type: ignore[method-assign]
    return changed


def factors_of(module: Any, rows: Any = ROWS["text"], batch_tokens: int = 2048) -> tuple[float, ...]:
    return magnitudes(Forward(language_model(module), batch_tokens), rows)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("batch_tokens", [30, 4000])
def test_losses_are_those_of_a_model_with_factors_for_blocks(name: str, kind: str, batch_tokens: int) -> None:
    module, rows = model(name), ROWS[kind]
    forward = Forward(language_model(module), batch_tokens, scales=SCALES)
    for mask, actual, _ in forward.loglikelihoods(rows, MASKS):
        changed = scaled(module, {i: SCALES[i] for i in mask.dropped})
        assert actual == pytest.approx([loglik(changed, row) for row in rows], rel=1e-9)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_factors_are_mean_ratios_of_magnitudes(name: str, kind: str) -> None:
    module, rows = model(name), ROWS[kind]
    ratios = []
    for row in rows:
        sizes = [np.abs(state).mean() for state in plain_states(module, row)]
        ratios.append([b / a for a, b in pairwise(sizes)])
    for batch_tokens in (20, 4000):
        expected = np.mean(ratios, axis=0).tolist()
        assert factors_of(module, rows, batch_tokens) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dropped", [(3,), (1, 4), (0, 2, 5)])
def test_folding_the_factors_into_earlier_weights_is_the_same_model(dropped: tuple[int, ...]) -> None:
    module = model()
    for norm in (part for part in module.modules() if hasattr(part, "variance_epsilon")):
        norm.variance_epsilon = 1e-10  # the only difference between the two forms
    factors, folded = factors_of(module), copy.deepcopy(module)
    folded.lm_head.weight = torch.nn.Parameter(folded.lm_head.weight.detach().clone())
    with torch.no_grad():
        for index in dropped:  # as Prune&Comp: scale everything that is added to the state before the block
            folded.model.embed_tokens.weight.mul_(factors[index])
            for block in folded.model.layers[:index]:
                block.self_attn.o_proj.weight.mul_(factors[index])
                block.mlp.down_proj.weight.mul_(factors[index])
        ids = torch.tensor([ROWS["text"][0].input_ids])
        expected = scaled(module, {i: factors[i] for i in dropped})(input_ids=ids, use_cache=False).logits
        actual = scaled(folded, dict.fromkeys(dropped, 1.0))(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("first", "second"), [(1, 4), (4, 1), (2, 3), (3, 2)])
def test_the_dense_models_factors_are_about_those_of_the_pruned_and_compensated_model(
    first: int, second: int
) -> None:
    """Prune&Comp measures the second factor on a model whose first block is already replaced by its factor."""
    for name in ("llama", "qwen3"):
        module = model(name)
        dense = factors_of(module)
        current = factors_of(scaled(module, {first: dense[first]}))
        assert current[first] == pytest.approx(dense[first])
        assert current[second] == pytest.approx(dense[second], rel=0.03)
