"""Find the two sub-layers of each block, attention and MLP, by its structure.

A block with two sub-layers computes h1 = h + A(h), and then h1 + M(h1). A and M include their norms. Each has one
module whose output is added to the hidden state, at once or through a norm: if that module returns zeros, the
sub-layer adds nothing. A block can be split if two of its child modules, one called before the other, pass this test
on the block's input for four tokens:

- if both return zeros, the block returns its input;
- if only one of them does, the block computes something else than its input, and something else than before;
- the first sub-layer, followed by the second, returns what the whole block returns, to the last bit.

A block that adds attention and MLP to the same state (GPT-NeoX, Falcon, Phi, Cohere) fails the last part. A mixer
such as Mamba takes the place of attention, and the experts of a block are one MLP. Names are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.models.block_probe import find_blocks, hidden_state, input_device
from pruning.models.blocks import apply, enter
from pruning.models.causality import IDS
from pruning.models.swap import swapped

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Sublayer:
    """One sub-layer of a block, and how the block is run so that only this sub-layer adds to the state.

    `main` is the module whose output the sub-layer adds. `others` are the replaced methods of the block's modules
    that belong to the other sub-layer.
    """

    block: int
    main: nn.Module
    others: tuple[tuple[nn.Module, Forward], ...]

    def parameters(self, block: nn.Module) -> list[nn.Parameter]:
        """The weights of the block that this sub-layer uses."""
        idle = {id(p) for module, _ in self.others for p in module.parameters()}
        return [p for p in block.parameters() if id(p) not in idle]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within this context, the block runs only this sub-layer."""
        with ExitStack() as stack:
            for module, forward in self.others:
                stack.enter_context(swapped(module, "forward", forward))
            yield


_cache: WeakKeyDictionary[nn.Module, tuple[Sublayer, ...]] = WeakKeyDictionary()


def find_sublayers(model: nn.Module) -> tuple[Sublayer, ...]:
    """The 2N sub-layers of a model of N blocks, in the order in which they run: attention and MLP of each block.

    Raises UnskippableError, with the reason, if a block does not consist of two sub-layers one after the other.
    """
    if model not in _cache:
        blocks, found = find_blocks(model), list[Sublayer]()
        with torch.no_grad():
            entry = enter(model, input_ids=torch.tensor(IDS, device=input_device(model)))
            hidden = entry.hidden
            for index, block in enumerate(blocks.modules):

                def run(state: Tensor, index: int = index) -> Tensor:
                    return apply(blocks, index, state, entry)

                found += _Probe(block, run, hidden).sublayers(index)
                hidden = run(hidden)
        _cache[model] = tuple(found)
    return _cache[model]


@dataclass
class _Probe:
    """Runs one block on one hidden state with some of its child modules replaced."""

    block: nn.Module
    run: Callable[[Tensor], Tensor]
    hidden: Tensor

    def sublayers(self, index: int) -> list[Sublayer]:
        """The block's two sub-layers. Raises UnskippableError if there are not exactly two, one after the other."""
        whole, calls = self._traced()
        zeros = {child: _zeros(output) for child, output in calls.items()}
        alone = {child: self._with({child: zeros[child]}, self.hidden) for child in calls}
        adding = [c for c, out in alone.items() if out is not None and not _equal(out, whole)]
        parallel = False
        best: tuple[nn.Module, nn.Module] | None = None
        for first, second in combinations(adding, 2):
            both = self._with({first: zeros[first], second: zeros[second]}, self.hidden)
            if both is None or not _equal(both, self.hidden):
                continue
            if _equal(alone[first], self.hidden) or _equal(alone[second], self.hidden):
                continue
            after = self._with({first: zeros[first]}, alone[second])
            if after is None or not _equal(after, whole):
                parallel = True
            elif best is None or _preferred((first, second), best):
                best = first, second
        if best is None:
            raise UnskippableError(_reason(index, self.block, parallel, self._silent(calls)))
        return [
            Sublayer(index, main, self._others(other, zeros[other], calls, alone[other]))
            for main, other in (best, best[::-1])
        ]

    def _silent(self, calls: Mapping[nn.Module, Any]) -> list[str]:
        """The names of the child modules with weights that return zeros, such as an MLP that an export removed."""
        children = ((name, child) for name, child in self.block.named_children() if child in calls)
        weighted = ((name, child) for name, child in children if any(True for _ in child.parameters()))
        return [
            name
            for name, child in weighted
            if (found := _tensor(calls[child])) is not None and not found.any()
        ]

    def _traced(self) -> tuple[Tensor, dict[nn.Module, Any]]:
        """The block's output, and the outputs of those children that are called once, in the order of the calls."""
        outputs: dict[nn.Module, list[Any]] = {}

        def note(module: nn.Module, _args: Any, output: Any) -> None:
            outputs.setdefault(module, []).append(output)

        handles = [child.register_forward_hook(note) for child in self.block.children()]
        try:
            whole = self.run(self.hidden)
        finally:
            for handle in handles:
                handle.remove()
        once = {child: seen[0] for child, seen in outputs.items() if len(seen) == 1}
        return whole, {child: output for child, output in once.items() if _tensor(output) is not None}

    def _with(self, forwards: Mapping[nn.Module, Forward], state: Tensor | None) -> Tensor | None:
        """The block's output with some methods replaced; None if the block cannot be run that way."""
        if state is None:
            return None
        try:
            with ExitStack() as stack:
                for module, forward in forwards.items():
                    stack.enter_context(swapped(module, "forward", forward))
                return self.run(state)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return None

    def _others(
        self, other: nn.Module, zero: Forward, calls: Mapping[nn.Module, Any], wanted: Tensor | None
    ) -> tuple[tuple[nn.Module, Forward], ...]:
        """The replaced methods that switch off a sub-layer: zeros for its main module, and no work for its norms."""
        chosen = {other: zero}
        for child in calls:
            if child is not other and any(True for _ in child.parameters()):
                trial = self._with(chosen | {child: _first}, self.hidden)
                if trial is not None and wanted is not None and _equal(trial, wanted):
                    chosen[child] = _first
        small = _zeros(calls[other], scalar=True)
        trial = self._with(chosen | {other: small}, self.hidden)
        if trial is not None and wanted is not None and _equal(trial, wanted):
            chosen[other] = small
        return tuple(chosen.items())


def _zeros(output: Any, scalar: bool = False) -> Forward:
    """A method that returns zeros in the place of the hidden state; everything else that it returns is None.

    A scalar zero is added to a state as zeros are, but costs nothing.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = hidden_state(args, kwargs)
        if given is None:
            given = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        shape = () if scalar else (*given.shape[: 1 - len(tail)], *tail) if tail else given.shape
        zeros = given.new_zeros(shape)
        return zeros if not isinstance(output, tuple) else (zeros, *[None] * extra)

    found = _tensor(output)
    assert found is not None
    tail, extra = tuple(found.shape[-1:]), len(output) - 1 if isinstance(output, tuple) else 0
    return forward


def _first(*args: Any, **kwargs: Any) -> Any:
    """The method of a module that returns its input."""
    return hidden_state(args, kwargs)


def _tensor(output: Any) -> Tensor | None:
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.dim() else None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b.to(a.device))


def _preferred(pair: Sequence[nn.Module], other: Sequence[nn.Module]) -> bool:
    """Whether a pair of modules does more of the work, or as much and later.

    A norm before or behind a sub-layer can pass the test, too, but has far fewer weights.
    """
    sizes = [[sum(p.numel() for p in module.parameters()) for module in modules] for modules in (pair, other)]
    return all(2 * mine >= theirs for mine, theirs in zip(*sizes, strict=True))


def _reason(index: int, block: nn.Module, parallel: bool, silent: Sequence[str]) -> str:
    what = "has no two parts that are added to the state one after the other"
    if parallel:
        what = "adds attention and MLP to the same state, so neither comes after the other"
    elif silent:
        what = f"adds nothing with its {' and '.join(silent)}, as after an export that removed this sub-layer"
    return (
        f"block {index} ({type(block).__name__}) cannot be split into attention and MLP: it {what}. "
        "Remove whole blocks with unit=block."
    )
