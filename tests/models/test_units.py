from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.models.blocks import find_blocks
from pruning.models.sublayers import masked
from tests.helpers.architectures import ARCHITECTURES, N_BLOCKS, build, without

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8, 9, 79], [2, 71, 82, 81, 82, 84, 5, 9, 4, 5]])
MASKS = [(2, 4), (0, 1), (5,), (0, 2, 3, 5)]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def logits(model: nn.Module, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, **options).logits


def test_blocks_are_found_by_structure(model: Any) -> None:
    blocks = find_blocks(model)
    assert len(blocks.modules) == N_BLOCKS
    assert blocks.path.rpartition(".")[2] in ("layers", "h")


def test_an_empty_mask_leaves_the_logits_untouched(model: Any) -> None:
    plain = logits(model)
    with masked(model, Mask(N_BLOCKS)):
        assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("dropped", MASKS, ids=str)
def test_skipping_equals_physical_removal(model: Any, dropped: tuple[int, ...]) -> None:
    expected = logits(without(model, dropped), use_cache=False)
    with masked(model, Mask(N_BLOCKS, dropped)):
        skipped = logits(model)
    assert torch.allclose(skipped, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(skipped, logits(model), atol=1e-3), "the blocks made no difference"


def test_everything_is_restored(model: Any) -> None:
    plain, before = logits(model), [dict(vars(module)) for module in model.modules()]
    with masked(model, Mask(N_BLOCKS, (1, 3))), masked(model, Mask(N_BLOCKS, (3, 4))):
        assert "forward" in vars(find_blocks(model).modules[3])
    assert [dict(vars(module)) for module in model.modules()] == before
    assert torch.equal(logits(model), plain)


def test_restored_after_an_exception(model: Any) -> None:
    with pytest.raises(ZeroDivisionError), masked(model, Mask(N_BLOCKS, (1,))):
        raise ZeroDivisionError
    assert all("forward" not in vars(module) for module in find_blocks(model).modules)


def test_skipped_blocks_are_not_run(model: Any) -> None:
    ran: list[int] = []
    parts = [next(child for child in block.children()) for block in find_blocks(model).modules]
    handles = [part.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, part in enumerate(parts)]
    with masked(model, Mask(N_BLOCKS, (0, 4))):
        logits(model)
    for handle in handles:
        handle.remove()
    assert sorted(set(ran)) == [1, 2, 3, 5]


def test_generation_in_a_context_equals_that_of_the_smaller_model(model: Any) -> None:
    def generate(which: Any) -> torch.Tensor:
        return which.generate(
            input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False
        )

    expected = generate(without(model, (0, 3)))
    with masked(model, Mask(N_BLOCKS, (0, 3))):
        assert torch.equal(generate(model), expected)


def test_device_hooks_of_accelerate_survive(model: Any) -> None:
    from accelerate import dispatch_model

    plain = logits(model)
    with masked(model, Mask(N_BLOCKS, (0, 3))):
        skipped = logits(model)
    path = f"{find_blocks(model).path}."
    leaves = [name for name, module in model.named_modules() if name and not list(module.children())]
    names = [
        *(name for name in leaves if not name.startswith(path)),
        *(f"{path}{i}" for i in range(N_BLOCKS)),
    ]
    devices = dict.fromkeys(names, "cpu")
    hooked = dispatch_model(build_again(model), devices, main_device="cpu", force_hooks=True)
    forwards = [module.forward for module in find_blocks(hooked).modules]
    with masked(hooked, Mask(N_BLOCKS, (0, 3))):
        assert torch.equal(logits(hooked), skipped)
    assert [module.forward for module in find_blocks(hooked).modules] == forwards
    assert torch.equal(logits(hooked), plain)


def build_again(model: Any) -> Any:
    twin = transformers.AutoModelForCausalLM.from_config(model.config).eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_a_mask_of_another_size_is_refused(model: Any) -> None:
    with (
        pytest.raises(UnskippableError, match="for 7 blocks, but the model has 6"),
        masked(model, Mask(7, (1,))),
    ):
        pass


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(d_model=16, d_ff=16, num_layers=2, num_heads=2, d_kv=8, vocab_size=50)
    with pytest.raises(UnskippableError, match="encoder-decoder"):
        find_blocks(transformers.T5ForConditionalGeneration(config))


def test_blocks_that_share_keys_and_values_are_refused() -> None:
    model = build("llama")
    model.config.num_kv_shared_layers = 2
    with pytest.raises(UnskippableError, match="reuse keys and values"):
        find_blocks(model)


class Chain(nn.Module):
    """A minimal model for `find_blocks`: each block gets all values that the one before returned."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(num_hidden_layers=len(blocks))
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(blocks)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:  # noqa: ARG002
        state: tuple[torch.Tensor, ...] = (self.embed(input_ids),)
        for layer in self.layers:
            state = layer(*state)
        return state[0]


class Passing(nn.Module):
    """A block that passes on a second tensor, like the position bias of T5."""

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return hidden + 1, hidden if bias is None else bias


class Narrowing(nn.Module):
    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (hidden[..., :-1],)


def test_blocks_that_pass_on_more_than_the_hidden_state_are_refused() -> None:
    with pytest.raises(UnskippableError, match="block 0 passes more than the hidden state on to block 1"):
        find_blocks(Chain(Passing(), Passing()))


def test_blocks_that_change_the_width_are_refused() -> None:
    with pytest.raises(UnskippableError, match="block 0 does not return a hidden state of the shape"):
        find_blocks(Chain(Narrowing(), Narrowing()))


def test_a_module_called_twice_is_refused() -> None:
    block = Passing()
    with pytest.raises(UnskippableError, match="not called once each"):
        find_blocks(Chain(block, block))


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    model = Chain(Passing(), Passing())
    model.config.num_hidden_layers = 3
    with pytest.raises(UnskippableError, match="no list of 3 blocks found in Chain"):
        find_blocks(model)
