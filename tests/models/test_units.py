"""Blocks and sub-layers are found by structure, and skipping one equals a model without it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.models.blocks import apply, enter, find_blocks
from pruning.models.sublayers import find_chain, find_sublayers, masked
from tests.helpers.architectures import (
    ARCHITECTURES,
    IDS,
    N_BLOCKS,
    PARALLEL,
    SEQUENTIAL,
    WIDE,
    attributes,
    build,
    logits,
    without,
    zeroed,
)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.fixture(scope="module", params=SEQUENTIAL)
def split(request: pytest.FixtureRequest) -> Any:
    module = with_biases(build(request.param))
    return module if request.param in WIDE else module.double()


def with_biases(module: Any) -> Any:
    """Random biases: a bias behind a removed sub-layer would still be added if too little were skipped."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return module


def blocks(*dropped: int) -> Mask:
    return Mask(N_BLOCKS, dropped)


def sublayers(*dropped: int) -> Mask:
    return Mask(N_BLOCKS, dropped, "sublayer")


# Blocks.


def test_blocks_are_found_by_structure_and_an_empty_mask_changes_nothing(model: Any) -> None:
    found = find_blocks(model)
    assert len(found.modules) == N_BLOCKS
    assert found.path.rpartition(".")[2] in ("layers", "h")
    plain = logits(model)
    with masked(model, blocks()):
        assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("dropped", [(2, 4), (0, 1), (5,), (0, 2, 3, 5)], ids=str)
def test_skipping_equals_physical_removal(model: Any, dropped: tuple[int, ...]) -> None:
    smaller, prompt = without(model, dropped), {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    prompt |= {"max_new_tokens": 6, "do_sample": False}
    with masked(model, blocks(*dropped)):
        skipped = logits(model)
        assert torch.equal(model.generate(**prompt), smaller.generate(**prompt))
    assert torch.allclose(skipped, logits(smaller, use_cache=False), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(skipped, logits(model), atol=1e-3), "the blocks made no difference"


def test_skipped_blocks_are_not_run_and_everything_is_restored(model: Any) -> None:
    plain, before, ran = logits(model), attributes(model), list[int]()
    parts = [next(child for child in block.children()) for block in find_blocks(model).modules]
    handles = [part.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, part in enumerate(parts)]
    with suppress(ZeroDivisionError), masked(model, blocks(0, 4)), masked(model, blocks(4, 5)):
        logits(model)
        raise ZeroDivisionError
    assert sorted(set(ran)) == [1, 2, 3]
    for handle in handles:
        handle.remove()
    assert attributes(model) == before
    assert torch.equal(logits(model), plain)


def test_device_hooks_of_accelerate_survive(model: Any) -> None:
    from accelerate import dispatch_model

    plain = logits(model)
    with masked(model, blocks(0, 3)):
        skipped = logits(model)
    path = f"{find_blocks(model).path}."
    leaves = [name for name, module in model.named_modules() if name and not list(module.children())]
    names = [name for name in leaves if not name.startswith(path)] + [f"{path}{i}" for i in range(N_BLOCKS)]
    twin: Any = transformers.AutoModelForCausalLM.from_config(model.config).eval()
    twin.load_state_dict(model.state_dict())
    hooked = dispatch_model(twin, dict.fromkeys(names, "cpu"), main_device="cpu", force_hooks=True)
    forwards = [module.forward for module in find_blocks(hooked).modules]
    with masked(hooked, blocks(0, 3)):
        assert torch.equal(logits(hooked), skipped)
    assert [module.forward for module in find_blocks(hooked).modules] == forwards
    assert torch.equal(logits(hooked), plain)


def test_a_mask_of_another_size_is_refused(model: Any) -> None:
    with pytest.raises(UnskippableError, match=r"7 blocks.* 6"), masked(model, Mask(7, (1,))):
        pass


class Passing(nn.Module):
    """A block that passes on a second tensor, like the position bias of T5."""

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return hidden + 1, hidden if bias is None else bias


class Line(nn.Module):
    """A minimal model for `find_blocks`: each block gets all values that the one before returned."""

    def __init__(self, *members: nn.Module, count: int = 2) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(num_hidden_layers=count)
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(members)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:  # noqa: ARG002
        state: tuple[torch.Tensor, ...] = (self.embed(input_ids),)
        for layer in self.layers:
            state = layer(*state)
        return state[0]


REFUSED = {
    "block 0 .*block 1": lambda: Line(Passing(), Passing()),
    "called once": lambda: Line(*[Passing()] * 2),
    "3 blocks .*Line": lambda: Line(Passing(), Passing(), count=3),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_blocks_that_cannot_be_skipped_are_refused(reason: str) -> None:
    with pytest.raises(UnskippableError, match=reason):
        find_blocks(REFUSED[reason]())


# Sub-layers.


@pytest.mark.parametrize("dropped", [(2,), (3,), (0, 1), (0, 3, 4, 5, 11), (1, 3, 5, 7, 9, 11)], ids=str)
def test_skipping_equals_zero_output_weights(split: Any, dropped: tuple[int, ...]) -> None:
    expected, dense = logits(zeroed(split, dropped), use_cache=False), logits(split, use_cache=False)
    with masked(split, sublayers(*dropped)):
        skipped = logits(split)
    tolerance = 1e-12 if skipped.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(skipped, expected, rtol=tolerance, atol=tolerance)
    assert (skipped - dense).abs().max() > 1e-3, "the sub-layers made no difference"


def test_the_two_sub_layers_make_the_block_to_the_last_bit(split: Any) -> None:
    chain = find_chain(split, "sublayer")
    with torch.no_grad():
        entry = enter(split, input_ids=IDS)
        state = entry.hidden
        for index in range(N_BLOCKS):
            half = chain.run(2 * index, state, entry)
            whole = apply(chain.blocks, index, state, entry)
            assert torch.equal(chain.run(2 * index + 1, half, entry), whole)
            state = whole


def test_the_weights_of_a_block_are_divided_without_remainder(split: Any) -> None:
    chain = find_chain(split, "sublayer")
    for index, block in enumerate(chain.blocks.modules):
        attention, mlp = ({id(p) for p in chain.weights(2 * index + part)} for part in (0, 1))
        assert not attention & mlp
        assert attention | mlp == {id(p) for p in block.parameters()}
        assert min(len(attention), len(mlp)) > 1, "a norm belongs to each part"


def test_a_skipped_sub_layer_is_not_run_and_everything_is_restored(split: Any) -> None:
    plain, ran = logits(split), list[nn.Module]()
    found = find_sublayers(split)
    inside = [m for unit in (2, 5) for m in list(found[unit].main.modules())[1:]]
    handles = [module.register_forward_hook(lambda m, *_: ran.append(m)) for module in inside]
    before = attributes(split)
    with masked(split, sublayers(2, 5)), masked(split, sublayers(4, 5)):
        logits(split)
    assert attributes(split) == before
    assert not ran
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(split), plain)


def test_a_factor_multiplies_the_state_where_a_sub_layer_is_missing(split: Any) -> None:
    scales = [1.0 + unit / 20 for unit in range(2 * N_BLOCKS)]
    chain, dropped = find_chain(split, "sublayer"), (2, 5, 8, 9)
    seen: list[Any] = []
    handle = chain.blocks.modules[-1].register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        entry = enter(split, input_ids=IDS)
        state = entry.hidden
        for unit in range(2 * N_BLOCKS):
            state = state * scales[unit] if unit in dropped else chain.run(unit, state, entry)
        with masked(split, sublayers(*dropped), scales):
            logits(split)
    handle.remove()
    torch.testing.assert_close(seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1], state)


def mamba() -> Any:
    config = transformers.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def without_an_mlp() -> Any:
    module = build("llama")
    nn.init.zeros_(find_blocks(module).modules[3].mlp.down_proj.weight)
    return module


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        *((lambda name=name: with_biases(build(name)), r"same state.*unit=block") for name in PARALLEL),
        *(
            (lambda name=name: build(name), "block 0 .*two parts.*unit=block")
            for name in ("bloom", "falcon_h1")
        ),
        (mamba, r"block 0 .*two parts.*unit=block"),
        (without_an_mlp, r"block 3 .*two parts.*unit=block"),
    ],
)
def test_blocks_that_cannot_be_split_are_refused(make: Any, reason: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(UnskippableError, match=reason):
        find_sublayers(make())
