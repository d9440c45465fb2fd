"""The smaller model computes what the masked model computes, and training it leaves the dense model alone."""

from __future__ import annotations

import pytest
import torch

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.healing.loop import smaller_model
from pruning.models.blocks import find_blocks
from pruning.models.sublayers import masked
from tests.healing.worlds import MASK, N_BLOCKS, PARTS, tiny

IDS = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
ENDS = Mask(N_BLOCKS, (0, 1, 5))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("mask", [MASK, PARTS, ENDS], ids=str)
def test_it_is_the_masked_model_with_and_without_factors(name: str, mask: Mask) -> None:
    dense = tiny(name)
    if name == "gemma3" and mask is PARTS:
        mask = Mask(
            N_BLOCKS, (2, 5), "sublayer"
        )  # whole blocks out of a pattern of layers need more of the configuration
    for scales in (None, [1 + 0.1 * i for i in range(mask.n_units)]):
        smaller = smaller_model(dense, mask, scales)
        with masked(dense.module, mask, scales), torch.no_grad():
            wanted = dense.module(input_ids=IDS).logits
        with torch.no_grad():
            actual = smaller.model.module(input_ids=IDS, use_cache=False).logits
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)
        assert len(find_blocks(smaller.model.module).modules) == N_BLOCKS - len(mask.gone)


def test_blocks_are_copies_and_other_weights_are_shared() -> None:
    dense = tiny()
    smaller = smaller_model(dense, MASK)
    ours = dict(smaller.model.module.named_parameters())
    assert (
        ours["model.embed_tokens.weight"]
        is dict(dense.module.named_parameters())["model.embed_tokens.weight"]
    )
    weights = smaller.block_weights()
    assert {name.split(".")[2] for name in weights} == {"0", "2", "3", "5"}, "numbers are the dense model's"
    before = dense.module.get_parameter("model.layers.2.mlp.up_proj.weight").clone()
    with torch.no_grad():
        weights["model.layers.2.mlp.up_proj.weight"].zero_()
    assert torch.equal(dense.module.get_parameter("model.layers.2.mlp.up_proj.weight"), before)
    assert dense.module.config.num_hidden_layers == N_BLOCKS


def test_removed_parts_have_no_weights() -> None:
    names = smaller_model(tiny(), PARTS).block_weights()
    assert not [n for n in names if n.startswith(("model.layers.1.self_attn", "model.layers.2.mlp"))]
    assert [n for n in names if n.startswith("model.layers.1.mlp")]


@pytest.mark.parametrize("mask", [Mask(N_BLOCKS), Mask(N_BLOCKS, tuple(range(N_BLOCKS)))], ids=str)
def test_a_mask_that_leaves_nothing_to_heal_is_refused(mask: Mask) -> None:
    with pytest.raises(InputError, match="nothing to heal"):
        smaller_model(tiny(), mask)


def test_weights_that_do_not_fit_are_refused() -> None:
    smaller = smaller_model(tiny(), MASK)
    with pytest.raises(InputError, match=r"no weight like model\.layers\.1"):
        smaller.apply({"model.layers.1.mlp.up_proj.weight": torch.zeros(48, 32)})
