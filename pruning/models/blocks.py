"""Skip blocks of a model, or run them one by one.

Only this module and `engine/forward.py` assume that whole blocks are removed. Skipping replaces a block's `forward`
within a context, so the block is not run and its weights are not read. If a forward hook overrode the output instead,
the block would still run. The block's class, the model's loop over blocks and its attention masks do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.models.block_probe import Blocks, find_blocks, hidden_state, input_device

_MISSING = object()


@contextmanager
def masked(model: nn.Module, mask: Mask, scales: Sequence[float] | None = None) -> Iterator[None]:
    """Within this context, each dropped block returns the hidden state that it receives, unchanged.

    If `scales` is given (one factor per block), dropped block i multiplies the hidden state by `scales[i]`.
    Caching is off within the context: if block 0 were skipped while a cache is used, the model would count the
    positions of new tokens from 0 again. On exit everything is restored, including the device hooks of accelerate,
    which also replace `forward`. Contexts can be nested. Raises UnskippableError as `find_blocks` does.
    """
    blocks = find_blocks(model)
    if mask.n_blocks != len(blocks.modules):
        raise UnskippableError(
            f"the mask is for {mask.n_blocks} blocks, but the model has {len(blocks.modules)}."
        )
    with ExitStack() as stack:
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                stack.enter_context(_swapped(config, "use_cache", False))
        for index in mask.dropped:
            factor = 1.0 if scales is None else scales[index]
            stack.enter_context(_swapped(blocks.modules[index], "forward", _identity(blocks.extra, factor)))
        yield


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
            stack.enter_context(_swapped(module, "forward", record))
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
            replacement = _identity(blocks.extra) if index else lambda *_, **__: output
            stack.enter_context(_swapped(module, "forward", replacement))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, 0]


def _identity(extra: int | None, factor: float = 1.0) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        if factor != 1.0 and hidden is not None:
            hidden = hidden * factor
        return hidden if extra is None else (hidden, *[None] * extra)

    return forward


@contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute. On exit, restore its old value; if it had none, delete the attribute."""
    saved = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if saved is _MISSING else setattr(owner, name, saved)
