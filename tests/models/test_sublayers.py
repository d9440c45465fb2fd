"""Attention and MLP are found by structure, and skipping one equals a model whose output weights are zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.models.blocks import apply, enter, find_blocks
from pruning.models.sublayers import find_chain, find_sublayers, masked
from tests.helpers.architectures import N_BLOCKS, PARALLEL, SEQUENTIAL, WIDE, build, without, zeroed

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79], [2, 71, 82, 81, 82, 84, 5, 9, 4, 5]])
MASKS = [(2,), (3,), (0, 1), (0, 3, 4, 5, 11), (1, 3, 5, 7, 9, 11)]


@pytest.fixture(scope="module", params=SEQUENTIAL)
def model(request: pytest.FixtureRequest) -> Any:
    module = with_biases(build(request.param))
    return module if request.param in WIDE else module.double()


def with_biases(module: Any) -> Any:
    """Random biases: a bias behind a removed sub-layer would still be added if too little were skipped."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return module


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def sublayers(dropped: tuple[int, ...]) -> Mask:
    return Mask(N_BLOCKS, dropped, "sublayer")


@pytest.mark.parametrize("dropped", MASKS, ids=str)
def test_skipping_equals_zero_output_weights(model: Any, dropped: tuple[int, ...]) -> None:
    expected, dense = logits(zeroed(model, dropped)), logits(model)
    with masked(model, sublayers(dropped)):
        skipped = logits(model)
    exact = skipped.dtype == torch.float64
    torch.testing.assert_close(
        skipped, expected, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 1e-5
    )
    assert (skipped - dense).abs().max() > 1e-3, "the sub-layers made no difference"


def test_a_block_without_both_parts_is_a_removed_block(model: Any) -> None:
    expected = logits(without(model, (1, 4)).to(model.dtype))
    with masked(model, sublayers((2, 3, 8, 9))):
        assert torch.allclose(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_the_two_sub_layers_make_the_block_to_the_last_bit(model: Any) -> None:
    blocks, chain = find_blocks(model), find_chain(model, "sublayer")
    with torch.no_grad():
        entry = enter(model, input_ids=IDS)
        state = entry.hidden
        for index in range(N_BLOCKS):
            half = chain.run(2 * index, state, entry)
            whole = apply(blocks, index, state, entry)
            assert torch.equal(chain.run(2 * index + 1, half, entry), whole)
            state = whole


def test_the_weights_of_a_block_are_divided_without_remainder(model: Any) -> None:
    chain = find_chain(model, "sublayer")
    for index, block in enumerate(find_blocks(model).modules):
        parts = [{id(p) for p in chain.weights(2 * index + part)} for part in (0, 1)]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == {id(p) for p in block.parameters()}
        assert min(map(len, parts)) > 1, "a norm belongs to each part"


def test_a_skipped_sub_layer_is_not_run(model: Any) -> None:
    ran: list[nn.Module] = []
    found = find_sublayers(model)
    leaves = {  # all modules inside
        unit: [module for child in found[unit].children for module in list(child.modules())[1:]]
        for unit in (2, 5, 6)
    }
    inside = [leaf for members in leaves.values() for leaf in members]
    handles = [leaf.register_forward_hook(lambda m, *_: ran.append(m)) for leaf in inside]
    with masked(model, sublayers((2, 5))):
        logits(model)
    for handle in handles:
        handle.remove()
    assert not {*map(id, ran)} & {id(leaf) for unit in (2, 5) for leaf in leaves[unit]}


def test_everything_is_restored(model: Any) -> None:
    plain, before = logits(model), [dict(vars(module)) for module in model.modules()]
    with masked(model, sublayers((2, 3, 7))), masked(model, sublayers((4, 7))):
        pass
    assert [dict(vars(module)) for module in model.modules()] == before
    assert torch.equal(logits(model), plain)


def test_a_factor_multiplies_the_state_where_a_sub_layer_is_missing(model: Any) -> None:
    scales = [1.0 + unit / 20 for unit in range(2 * N_BLOCKS)]
    chain = find_chain(model, "sublayer")
    dropped = (2, 5, 8, 9)
    with torch.no_grad():
        entry = enter(model, input_ids=IDS)
        state = entry.hidden
        for unit in range(2 * N_BLOCKS):
            state = state * scales[unit] if unit in dropped else chain.run(unit, state, entry)
        seen: list[torch.Tensor] = []
        last = find_blocks(model).modules[-1]
        handle = last.register_forward_hook(
            lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        with masked(model, sublayers(dropped), scales):
            logits(model)
        handle.remove()
    torch.testing.assert_close(seen[0], state)


@pytest.mark.parametrize("name", PARALLEL)
def test_parallel_attention_and_mlp_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(UnskippableError, match=r"adds attention and MLP to the same state.*unit=block"):
        find_sublayers(with_biases(build(name)))


def test_a_mixer_takes_the_place_of_attention() -> None:
    """Jamba: Mamba mixers, attention and experts in one model."""
    torch.manual_seed(0)
    config = transformers.JambaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_period=4, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        num_experts=2, use_mamba_kernels=False, mamba_d_state=4, mamba_dt_rank=4,
    )  # fmt: skip
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    names = {child: name.rpartition(".")[2] for name, child in module.named_modules()}
    mains = [names[part.mains[0]] for part in find_sublayers(module)]
    assert mains[::2] == ["mamba", "self_attn", "mamba", "mamba"]
    assert mains[1::2] == ["feed_forward"] * 4


@pytest.mark.parametrize(
    ("name", "attention", "mlp"),
    [
        ("bloom", ["self_attention.dense"], ["mlp.dense_4h_to_h"]),
        ("mpt", ["attn"], ["ffn.down_proj"]),
        ("falcon", ["self_attention"], ["mlp"]),
        ("falcon_h1", ["mamba", "self_attn"], ["feed_forward"]),
    ],
)
@pytest.mark.parametrize("biases", [False, True])
def test_the_modules_that_add_to_the_state(
    name: str, attention: list[str], mlp: list[str], biases: bool
) -> None:
    module = with_biases(build(name)) if biases else build(name)
    names = {child: name for name, child in find_blocks(module).modules[1].named_modules()}
    parts = [part for part in find_sublayers(module) if part.block == 1]
    assert [[names[main] for main in part.mains] for part in parts] == [attention, mlp]


def test_a_model_whose_blocks_have_one_part_is_refused() -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnskippableError, match=r"block 0 .* has no two parts"):
        find_sublayers(module)


def test_a_sub_layer_that_an_export_removed_is_named_in_the_refusal() -> None:
    module = build("llama")
    torch.nn.init.zeros_(find_blocks(module).modules[3].mlp.down_proj.weight)
    with pytest.raises(UnskippableError, match=r"block 3 .* adds nothing with its mlp, as after an export"):
        find_sublayers(module)
