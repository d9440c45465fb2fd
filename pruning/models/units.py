"""Skip units of a model, or run them one by one; a unit is a block or a sub-layer of a block.

Skipping replaces methods `forward` within a context, so a skipped unit is not run and its weights are not read. If a
forward hook overrode the output instead, the unit would still run. The block's class, the model's loop over blocks
and its attention masks do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruning.core.errors import InputError, UnskippableError
from pruning.core.mask import Mask
from pruning.models.block_probe import Blocks, find_blocks, hidden_state
from pruning.models.blocks import BlockInputs, apply, identity
from pruning.models.sublayers import Sublayer, find_sublayers
from pruning.models.swap import swapped

CACHES = ("past_key_values", "cache", "cache_params", "state")  # arguments of models that hold a cache


@dataclass(frozen=True)
class Chain:
    """The units of a model in the order in which they run; each takes and returns a hidden state.

    `sublayers` is empty if the units are blocks.
    """

    blocks: Blocks
    sublayers: tuple[Sublayer, ...] = ()

    def __len__(self) -> int:
        return len(self.sublayers or self.blocks.modules)

    def run(self, index: int, hidden: Tensor, entry: BlockInputs) -> Tensor:
        """Run unit `index` on a hidden state (B, T, D) of the shape for which `entry` was made."""
        if not self.sublayers:
            return apply(self.blocks, index, hidden, entry)
        with self.sublayers[index].alone():
            return apply(self.blocks, self.sublayers[index].block, hidden, entry)

    def weights(self, index: int) -> list[nn.Parameter]:
        """The weights that unit `index` uses."""
        if not self.sublayers:
            return list(self.blocks.modules[index].parameters())
        sublayer = self.sublayers[index]
        return sublayer.parameters(self.blocks.modules[sublayer.block])

    def sizes(self) -> list[int]:
        """The number of parameters of each unit."""
        return [sum(p.numel() for p in self.weights(index)) for index in range(len(self))]

    def block_shares(self) -> Sequence[float]:
        """For each unit, its share of the parameters of its block; 1 for a block."""
        if not self.sublayers:
            return [1] * len(self)
        sizes = self.sizes()
        sums = [a + b for a, b in zip(sizes[::2], sizes[1::2], strict=True)]
        return [size / sums[index // 2] for index, size in enumerate(sizes)]


def find_chain(model: nn.Module, unit: str = "block") -> Chain:
    """The units of a model. Raises UnskippableError if it cannot be divided into such units."""
    return Chain(find_blocks(model), find_sublayers(model) if unit == "sublayer" else ())


@contextmanager
def masked(model: nn.Module, mask: Mask, scales: Sequence[float] | None = None) -> Iterator[None]:
    """Within this context, each dropped unit adds nothing to the hidden state that it receives.

    If `scales` is given (one factor per unit), dropped unit i multiplies the hidden state by `scales[i]`.
    Caching is off within the context: if block 0 were skipped while a cache is used, the model would count the
    positions of new tokens from 0 again. So a forward pass that is given a cache raises InputError. On exit
    everything is restored, including the device hooks of accelerate, which also replace `forward`. Contexts can be
    nested. Raises UnskippableError as `find_chain` does.
    """
    chain = find_chain(model, mask.unit)
    if mask.n_units != len(chain):
        raise UnskippableError(
            f"the mask is for {mask.n_blocks} blocks, but the model has {len(chain.blocks.modules)}."
        )
    with ExitStack() as stack:
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                stack.enter_context(swapped(config, "use_cache", False))
        for module in {model, getattr(model, "base_model", model)}:
            stack.callback(module.register_forward_pre_hook(_without_cache, with_kwargs=True).remove)
        for block in mask.gone:
            factor = 1.0 if scales is None else _factor(mask, block, scales)
            skip = identity(chain.blocks.extra, factor)
            stack.enter_context(swapped(chain.blocks.modules[block], "forward", skip))
        for unit in mask.dropped if chain.sublayers else ():
            if unit // 2 not in mask.gone:
                factor = 1.0 if scales is None else scales[unit]
                stack.enter_context(_part_skipped(chain, unit, factor))
        yield


def _without_cache(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a forward pass that keeps no cache. Raises InputError if it is given one."""
    from transformers import Cache

    named = [name for name in CACHES if kwargs.get(name) is not None]
    if named or any(isinstance(value, Cache) for value in args):
        raise InputError(
            f"{named[0] if named else 'a cache'} was given to a masked model, which cannot use a cache: leave it and "
            "use_cache=True out, or export the mask and use the exported model."
        )
    return args, kwargs | {"use_cache": False} if kwargs.get("use_cache") else kwargs


def _factor(mask: Mask, block: int, scales: Sequence[float]) -> float:
    return scales[block] if mask.unit == "block" else scales[2 * block] * scales[2 * block + 1]


@contextmanager
def _part_skipped(chain: Chain, unit: int, factor: float) -> Iterator[None]:
    """Skip one sub-layer of a block of which the other stays."""
    kept = chain.sublayers[unit ^ 1]
    block = chain.blocks.modules[kept.block]
    with kept.alone(), ExitStack() as stack:
        if factor != 1.0:
            stack.enter_context(swapped(block, "forward", _scaled(block, factor, first=unit % 2 == 0)))
        yield


def _scaled(block: nn.Module, factor: float, first: bool) -> Any:
    """The block's method, which multiplies the state by a factor before the rest of the block, or after it."""
    run = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if first:
            hidden = hidden_state(args, kwargs)
            assert hidden is not None
            args, kwargs = (
                ((hidden * factor, *args[1:]), kwargs)
                if args
                else (args, kwargs | {"hidden_states": hidden * factor})
            )
            return run(*args, **kwargs)
        output = run(*args, **kwargs)
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return forward
