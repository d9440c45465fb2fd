"""Find the axis of a weight along which a linear map of a module's output is folded in, by probes with random values.

The last weights of a sub-layer can be stored as (out, in), as (in, out), or as one tensor of all experts, and biases
have one axis. Which axis holds the outputs cannot be read off a square matrix. So each choice is tried on a copy of
the module with random weights: with the right one, the output is multiplied by the map.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from pruning.models.output_weights import STD, hidden_of, module_inputs, random_state, weight_groups

# Largest relative difference that is still rounding, by the bytes of a number.
ROUNDING = {8: 1e-6, 4: 1e-3, 2: 0.05}


@dataclass(frozen=True)
class Axes:
    """Weights by their names in the model: the axis of the outputs, and an offset.

    A map multiplies (offset + weight) along the axis. The offset is 1 for a norm that multiplies by 1 + weight, and 0
    for everything else.
    """

    axes: tuple[tuple[str, int, float], ...]

    def names(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(name for name, _, _ in self.axes)


def folded(weight: Tensor, axis: int, offset: float, change: Tensor) -> Tensor:
    """A weight whose outputs, along an axis, are multiplied by a matrix (D, D) or a diagonal (D,); in float64."""
    last = weight.double().movedim(axis, -1) + offset
    change = change.double().to(last.device)
    mapped = last * change if change.dim() == 1 else last @ change
    return (mapped - offset).movedim(-1, axis)


def output_axes(model: nn.Module, main: nn.Module, names: Sequence[str], path: str) -> Axes | None:
    """The axes of the last weights of a main module; None if its output is not linear in them.

    `names` are their names in the block, and `path` is the name of the block with a dot.
    """
    args, kwargs = module_inputs(model, [main])[main]
    own = next(name for name, module in model.named_modules() if module is main)
    inside = [f"{path}{name}".removeprefix(f"{own}.") for name in names]
    twin = copy.deepcopy(main)
    generator = torch.Generator().manual_seed(0)
    args, kwargs = random_state(args, kwargs, generator)
    _randomise(twin, generator)
    groups = [group for group in weight_groups(twin, inside, args, kwargs) if group]
    for axes in _choices(twin, groups, args, kwargs, generator):
        return Axes(tuple((f"{own}.{name}", axis, 0.0) for name, axis, _ in axes))
    return None


def norm_axes(model: nn.Module, norm: nn.Module) -> Axes | None:
    """The weights of a norm, if its output is linear in all of them or in 1 + weight; None otherwise."""
    args, kwargs = module_inputs(model, [norm])[norm]
    own = next(name for name, module in model.named_modules() if module is norm)
    twin = copy.deepcopy(norm)
    generator = torch.Generator().manual_seed(0)
    args, kwargs = random_state(args, kwargs, generator)
    _randomise(twin, generator)
    groups = [[name] for name, _ in twin.named_parameters()]
    for axes in _choices(twin, groups, args, kwargs, generator, offsets=(0.0, 1.0)):
        return Axes(tuple((f"{own}.{name}", axis, offset) for name, axis, offset in axes))
    return None


def _choices(
    twin: nn.Module,
    groups: Sequence[Sequence[str]],
    args: Any,
    kwargs: Any,
    generator: torch.Generator,
    offsets: tuple[float, ...] = (0.0,),
) -> Iterator[list[tuple[str, int, float]]]:
    """Yield each choice of axes and offsets with which the twin's output is multiplied by a random map."""
    plain = _output(twin, args, kwargs)
    width, tolerance = plain.shape[-1], ROUNDING[hidden_of(args, kwargs).element_size()]
    change = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    if len(offsets) > 1:  # norms take diagonals only
        change = torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
    expected = plain * change if change.dim() == 1 else plain @ change
    weights = dict(twin.named_parameters())
    saved = {name: weights[name].detach().clone() for group in groups for name in group}
    possible = [
        [
            (axis, offset)
            for axis, size in enumerate(weights[group[0]].shape)
            if size == width
            for offset in offsets
        ]
        for group in groups
    ]
    for chosen in product(*possible) if groups else ():
        axes = [
            (name, axis, offset)
            for group, (axis, offset) in zip(groups, chosen, strict=True)
            for name in group
        ]
        with torch.no_grad():
            for name, axis, offset in axes:
                weights[name].copy_(folded(saved[name], axis, offset, change))
            actual = _output(twin, args, kwargs)
        if (actual - expected).norm() <= tolerance * expected.norm():
            yield axes


def _output(module: nn.Module, args: Any, kwargs: Any) -> Tensor:
    with torch.no_grad():
        output = module(*args, **kwargs)
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state.double().cpu()


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            if weight.is_floating_point():
                weight.copy_((torch.randn(weight.shape, generator=generator) * STD).to(weight))
