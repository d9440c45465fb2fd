"""A model without some sub-layers equals the masked model, generates with a cache, and holds no unused weights."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.evaluation import speed
from pruning.models import removal
from pruning.models.removal import blocks_removed, smaller_config
from pruning.models.sublayers import find_chain, masked
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, PARALLEL, attributes, build
from tests.helpers.architectures import IDS as TWO
from tests.helpers.architectures import logits as logits_of

IDS = TWO[:1]
PROMPT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 12, "do_sample": False}
# One part; both parts of block 0; the first attentions; all attentions of one kind; all but one attention.
MASKS = ["a2", "m3", "a0", "b0 a1 m4", "a0 a1 a2 m2 b4", "a0 a2 a4", "a1 a3 a5", "a0 a1 a2 a4 a5 m3"]
SEQUENTIAL = [name for name in ARCHITECTURES if name not in PARALLEL]


def logits(model: nn.Module) -> torch.Tensor:
    return logits_of(model, IDS, use_cache=False)


@pytest.fixture(scope="module", params=SEQUENTIAL)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.mark.parametrize("text", MASKS)
def test_the_model_without_the_parts_is_the_masked_one_with_and_without_a_cache(
    model: Any, text: str
) -> None:
    mask = Mask.parse(N_BLOCKS, text)
    plain, before = logits(model), attributes(model)
    parameters, size = speed.weight(model)
    missing = sum(find_chain(model, "sublayer").sizes()[unit] for unit in mask.dropped)
    # The argument for the cache differs between models.
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    with masked(model, mask):
        expected, tokens = logits(model), model.generate(**PROMPT)
    with blocks_removed(model, mask, smaller_config(model, mask)), torch.no_grad():
        assert torch.equal(logits(model), expected)
        assert torch.equal(model.generate(**PROMPT, use_cache=True), tokens)
        assert torch.equal(model.generate(**PROMPT, use_cache=False), tokens)
        assert ("without weights" in repr(model)) == (mask.as_blocks() is None)
        assert speed.weight(model) == (parameters - missing, size - 4 * missing)
        cache = {name: transformers.DynamicCache(config=model.config)}
        steps = [(0, 4), (4, 5), (5, 8), (8, 9), (9, 10)]
        parts = [model(input_ids=IDS[:, a:b], **cache, use_cache=True).logits for a, b in steps]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)
    assert attributes(model) == before
    assert speed.weight(model) == (parameters, size)
    assert torch.equal(logits(model), plain)
    assert not torch.equal(plain, expected), "the parts made no difference"


def test_whole_blocks_in_a_mask_of_parts_are_whole_blocks() -> None:
    model, mask = build("gemma3"), Mask.parse(N_BLOCKS, "b1 b4").as_sublayers()
    with blocks_removed(model, mask, smaller_config(model, mask)):
        parts, tokens = logits(model), model.generate(**PROMPT)
    blocks = Mask(N_BLOCKS, (1, 4))
    with blocks_removed(model, blocks, smaller_config(model, blocks)):
        assert torch.equal(logits(model), parts)
        assert torch.equal(model.generate(**PROMPT), tokens)


def test_a_cache_that_loses_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        removal, "_counting", lambda forward, _: forward
    )  # the first layer of the cache stays empty
    with pytest.raises(InputError, match=r"llama .*unit=block"):
        smaller_config(build("llama"), Mask.parse(N_BLOCKS, "a0"))


def test_mixers_of_a_hybrid_model_keep_their_layers() -> None:
    """Qwen3-Next: three recurrent mixers, then an attention. The last mixer's layer says whether a state exists."""
    torch.manual_seed(0)
    config = transformers.Qwen3NextConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for text in ("a0", "a6 m1", "a3 a2", "b0 a1 a7"):
        mask = Mask.parse(8, text)
        with masked(model, mask):
            expected, tokens = logits(model), model.generate(**PROMPT)
        with blocks_removed(model, mask, smaller_config(model, mask)):
            assert torch.equal(logits(model), expected)
            assert torch.equal(model.generate(**PROMPT, use_cache=True), tokens)
