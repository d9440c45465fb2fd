"""Run a model up to its blocks, its blocks one by one, and what follows them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.models.block_probe import Blocks, find_blocks, hidden_state, input_device
from pruning.models.swap import swapped


@dataclass(frozen=True)
class BlockInputs:
    """The inputs of blocks in a forward pass: the first hidden state (B, T, D), and each block's other arguments."""

    hidden: Tensor
    others: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


class _Reached(Exception):  # noqa: N818 - a signal that the last block was reached, not an error
    pass


def enter(model: nn.Module, **inputs: Any) -> BlockInputs:
    """Run a model up to its blocks and record the arguments that it would pass to each block; no block is run.

    The model itself makes the attention masks, position embeddings and so on, separately for each block, so
    blocks with different kinds of attention get the right masks. All these arguments can be reused with any
    hidden state of the same shape.
    """
    blocks = find_blocks(model)
    hiddens: list[Tensor] = []
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        hiddens.append(hidden)
        others.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        if len(others) == len(blocks.modules):
            raise _Reached
        return hidden if blocks.extra is None else (hidden, *[None] * blocks.extra)

    with ExitStack() as stack:
        for module in blocks.modules:
            stack.enter_context(swapped(module, "forward", record))
        with suppress(_Reached):
            model(**inputs, use_cache=False)
    return BlockInputs(hiddens[0], tuple(others))


def apply(blocks: Blocks, index: int, hidden: Tensor, entry: BlockInputs) -> Tensor:
    """Run block `index` on a hidden state (B, T, D) of the shape for which `entry` was made."""
    args, kwargs = entry.others[index]
    output = blocks.modules[index](hidden, *args, **kwargs)
    result: Tensor = output if blocks.extra is None else output[0]
    return result


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits (n, V) of hidden states (n, D) that come out of the last block.

    The model itself is run on n sequences of one token each, with its blocks skipped and `hidden` as their
    output. This applies everything that the model does after its blocks (norms, projections, soft caps) to each
    position separately.
    """
    blocks = find_blocks(model)
    state = hidden[:, None]  # (n, 1, D)
    output = state if blocks.extra is None else (state, *[None] * blocks.extra)
    # Any token but padding. Some configurations, such as RWKV's, have no pad token.
    filler = 1 if getattr(model.config.get_text_config(decoder=True), "pad_token_id", None) == 0 else 0
    ids = torch.full((len(hidden), 1), filler, device=input_device(model))
    with ExitStack() as stack:
        for index, module in enumerate(blocks.modules):
            replacement = identity(blocks.extra) if index else lambda *_, **__: output
            stack.enter_context(swapped(module, "forward", replacement))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, 0]


def identity(extra: int | None, factor: float = 1.0) -> Callable[..., Any]:
    """The method of a block that returns its input, multiplied by a factor; `extra` is as in `Blocks`."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        if factor != 1.0 and hidden is not None:
            hidden = hidden * factor
        return hidden if extra is None else (hidden, *[None] * extra)

    return forward
