"""Find the units of a model (blocks, or the two sub-layers of each block), run them one by one, and skip them.

A block with two sub-layers computes h1 = h + A(h), and then h1 + M(h1); A and M include their norms. A child
module is switched off by making it return zeros. A block can be split if two children, one called before the
other, pass this test on the block's input for four tokens:

- if both are off, the block returns its input;
- if only one of them is off, the output differs from the block's input and from its output with both on;
- the first sub-layer followed by the second returns bitwise the output of the whole block.

A mixer such as Mamba counts as attention, and all experts of a block count as one MLP. Names are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import InputError, UnskippableError
from pruning.core.mask import Mask
from pruning.models.blocks import (
    BlockInputs,
    Blocks,
    OncePerModel,
    apply,
    calls_of,
    enter,
    extra_of,
    few_tokens,
    find_blocks,
    hidden_state,
    identity,
    returned,
    scaled_after,
    scaled_before,
    swapped,
)

Forward = Callable[..., Any]
CACHES = ("cache", "past_key_values", "cache_params", "state")  # names of model arguments for a cache


@dataclass(frozen=True)
class Sublayer:
    """One sub-layer of a block, and the replacements with which the block runs only this sub-layer.

    `main` is the block's child whose output is added to the hidden state. `others` has the modules of the
    other sub-layer, each with the method that replaces its `forward`.
    """

    block: int
    main: nn.Module
    others: tuple[tuple[nn.Module, Forward], ...]

    def parameters(self, block: nn.Module) -> list[nn.Parameter]:
        """The block's weights that this sub-layer uses."""
        idle = {id(p) for module, _ in self.others for p in module.parameters()}
        return [p for p in block.parameters() if id(p) not in idle]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within this context, the block runs only this sub-layer."""
        with _replaced(dict(self.others)):
            yield


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
        """The output (B, T, D) of unit `index` for `hidden` and the arguments in `entry`, made for this shape."""
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
        """For each unit, its share of its block's parameters; each share is 1 if the units are blocks."""
        if not self.sublayers:
            return [1] * len(self)
        sizes = self.sizes()
        sums = [a + b for a, b in zip(sizes[::2], sizes[1::2], strict=True)]
        return [size / sums[index // 2] for index, size in enumerate(sizes)]


def find_chain(model: nn.Module, unit: str = "block") -> Chain:
    """The units of a model. Raises UnskippableError if the model cannot be divided into units of this kind."""
    return Chain(find_blocks(model), find_sublayers(model) if unit == "sublayer" else ())


@OncePerModel
def find_sublayers(model: nn.Module) -> tuple[Sublayer, ...]:
    """Attention and MLP of each block. Raises UnskippableError, with the reason, if a block has other parts."""
    blocks, found = find_blocks(model), list[Sublayer]()
    with torch.no_grad():
        entry = enter(model, input_ids=few_tokens(model))
        hidden = entry.hidden
        for index in range(len(blocks.modules)):
            probe = _BlockProbe(blocks, index, entry, hidden)
            found += probe.sublayers()
            hidden = probe.run(hidden)
    return tuple(found)


@contextmanager
def masked(model: nn.Module, mask: Mask, scales: Sequence[float] | None = None) -> Iterator[None]:
    """Within this context, dropped units are skipped: they add nothing to the hidden state.

    If `scales` is given (one factor per unit), dropped unit i multiplies the hidden state by `scales[i]`.
    `forward` methods are replaced, so dropped units do not run. On exit, all methods are restored, including
    accelerate's device hooks. Contexts can be nested. Raises UnskippableError if the mask does not fit the model.

    Caching is off within the context: if a cache were used and block 0 skipped, the model would count the
    positions of new tokens from 0 again. So a forward pass with a cache raises InputError.
    """
    chain = find_chain(model, mask.unit)
    blocks = chain.blocks
    if mask.n_units != len(chain):
        raise UnskippableError(
            f"the mask is for {mask.n_blocks} blocks, but the model has {len(blocks.modules)}."
        )
    factors = [1.0] * len(chain) if scales is None else scales
    with ExitStack() as stack:
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                stack.enter_context(swapped(config, "use_cache", False))
        for module in {model, getattr(model, "base_model", model)}:
            stack.callback(module.register_forward_pre_hook(_without_cache, with_kwargs=True).remove)
        for index in mask.gone:
            factor = factors[index] if mask.unit == "block" else factors[2 * index] * factors[2 * index + 1]
            stack.enter_context(swapped(blocks.modules[index], "forward", identity(blocks.extra)))
            if factor != 1.0:
                stack.callback(scaled_before(blocks.modules[index], factor).remove)
        for unit in mask.dropped if chain.sublayers else ():
            block, factor = blocks.modules[unit // 2], factors[unit]
            if unit // 2 in mask.gone:
                continue
            stack.enter_context(chain.sublayers[unit ^ 1].alone())
            if factor != 1.0:
                stack.callback((scaled_after if unit % 2 else scaled_before)(block, factor).remove)
        yield


def _without_cache(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a forward pass, with `use_cache` off. Raises InputError if a cache is among them."""
    from transformers import Cache

    named = [name for name in CACHES if kwargs.get(name) is not None]
    if named or any(isinstance(value, Cache) for value in args):
        raise InputError(
            f"{named[0] if named else 'a cache'} was given to a masked model, which cannot use a cache: leave it and "
            "use_cache=True out, or export the mask and use the exported model."
        )
    return args, kwargs | {"use_cache": False} if kwargs.get("use_cache") else kwargs


# How the two sub-layers of a block are found.


@dataclass
class _BlockProbe:
    """Runs one block on one hidden state with some of its child modules replaced."""

    blocks: Blocks
    index: int
    entry: BlockInputs
    hidden: Tensor

    def run(self, state: Tensor) -> Tensor:
        """The block's output for a hidden state."""
        return apply(self.blocks, self.index, state, self.entry)

    def sublayers(self) -> list[Sublayer]:
        """The block's two sub-layers. Raises UnskippableError if there are not exactly two, one after the other."""
        block = self.blocks.modules[self.index]
        with calls_of(block.children()) as made:
            whole = self.run(self.hidden)
        counts = Counter(call.module for call in made)
        # The outputs, in order, of the children that are called once and return a tensor.
        outputs = {
            c.module: c.output for c in made if counts[c.module] == 1 and _tensor(c.output) is not None
        }
        best, parallel = self._pair(outputs, whole)
        if best is None:
            what = "has no two parts that are added to the state one after the other (an export may have removed one)"
            if parallel:
                what = "adds attention and MLP to the same state, so neither comes after the other"
            raise UnskippableError(
                f"block {self.index} ({type(block).__name__}) cannot be split into attention and MLP: it {what}. "
                "Remove whole blocks with unit=block."
            )
        return [Sublayer(self.index, main, self._off(other, outputs)) for main, other in (best, best[::-1])]

    def _pair(
        self, outputs: Mapping[nn.Module, Any], whole: Tensor
    ) -> tuple[tuple[nn.Module, nn.Module] | None, bool]:
        """The best pair of children that add in sequence (or None), and whether any pair adds in parallel."""
        zeros = {child: _Zeros(output) for child, output in outputs.items()}
        alone = {child: self._with({child: zeros[child]}, self.hidden) for child in outputs}
        adding = [child for child, out in alone.items() if out is not None and not _equal(out, whole)]
        best: tuple[nn.Module, nn.Module] | None = None
        parallel = False
        weights = _size(self.blocks.modules[self.index])
        for first, second in combinations(adding, 2):
            if 2 * (_size(first) + _size(second)) < weights:
                continue  # zeros from a norm also switch off the next module, if it has no biases
            both = self._with({first: zeros[first], second: zeros[second]}, self.hidden)
            if both is None or not _equal(both, self.hidden):
                continue
            if _equal(alone[first], self.hidden) or _equal(alone[second], self.hidden):
                continue
            after = self._with({first: zeros[first]}, alone[second])
            if after is None or not _equal(after, whole):
                parallel = True
            # A later pair is preferred, unless a child has less than half as many weights as in the earlier
            # pair: norms before or after a sub-layer can pass the test, too, but have far fewer weights.
            elif best is None or (2 * _size(first) >= _size(best[0]) and 2 * _size(second) >= _size(best[1])):
                best = first, second
        return best, parallel

    def _off(
        self, other: nn.Module, outputs: Mapping[nn.Module, Any]
    ) -> tuple[tuple[nn.Module, Forward], ...]:
        """The modules of a sub-layer (main module and norms), each with the method that switches it off."""
        chosen: dict[nn.Module, Forward] = {other: _Zeros(outputs[other])}
        wanted = self._with(chosen, self.hidden)
        cheaper: list[tuple[nn.Module, Forward]] = [
            (child, identity(None)) for child in outputs if child is not other and _size(child)
        ]
        cheaper.append((other, _Zeros(outputs[other], scalar=True)))
        for module, forward in cheaper:
            if _equal(self._with(chosen | {module: forward}, self.hidden), wanted):
                chosen[module] = forward
        return tuple(chosen.items())

    def _with(self, forwards: Mapping[nn.Module, Forward], state: Tensor | None) -> Tensor | None:
        """The block's output with some `forward` methods replaced; None if the block fails with them."""
        if state is None:
            return None
        try:
            with _replaced(forwards):
                return self.run(state)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return None


class _Zeros:
    """A `forward` method that returns zeros as the hidden state; if `scalar` is true, one zero that is broadcast."""

    def __init__(self, output: Any, scalar: bool = False) -> None:
        found = _tensor(output)
        assert found is not None
        self.width, self.scalar, self.extra = found.shape[-1], scalar, extra_of(output)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = hidden_state(args, kwargs)
        if given is None:
            given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        shape = () if self.scalar else (*given.shape[:-1], self.width)
        return returned(given.new_zeros(shape), self.extra)


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Within this context, the `forward` methods of some modules are replaced."""
    with ExitStack() as stack:
        for module, forward in forwards.items():
            stack.enter_context(swapped(module, "forward", forward))
        yield


def _tensor(output: Any) -> Tensor | None:
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.dim() else None


def _size(module: nn.Module) -> int:
    """The number of a module's weights."""
    return sum(weight.numel() for weight in module.parameters())


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b.to(a.device))
