"""Find the axis of a weight along which a linear map of a module's output is folded in, by probes with random values.

The last weights of a sub-layer can be stored as (out, in), as (in, out), or as one tensor of all experts, and biases
have one axis. Which axis holds the outputs cannot be read off a square matrix. So each choice is tried on a copy of
the module with random weights: with the right one, the output is multiplied by the map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

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
    own = _name_of(model, main)
    inside = [f"{path}{name}".removeprefix(f"{own}.") for name in names]
    twin = _Twin(model, main)
    groups = [group for group in weight_groups(twin.module, inside, twin.args, twin.kwargs) if group]
    return _first_fitting(own, twin, groups, (0.0,))


def norm_axes(model: nn.Module, norm: nn.Module) -> Axes | None:
    """The weights of a norm, if its output is linear in all of them or in 1 + weight; None otherwise.

    Norms take diagonal maps only.
    """
    twin = _Twin(model, norm, diagonal=True)
    groups = [[name] for name, _ in twin.module.named_parameters()]
    return _first_fitting(_name_of(model, norm), twin, groups, (0.0, 1.0))


class _Twin:
    """A copy of a module with random weights, its random input, and a random map of its output."""

    def __init__(self, model: nn.Module, module: nn.Module, diagonal: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.args, self.kwargs = random_state(*module_inputs(model, [module])[module], generator)
        self.module = copy.deepcopy(module)
        _randomise(self.module, generator)
        plain = self.output()
        width = plain.shape[-1]
        if diagonal:
            self.change = torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
        else:
            self.change = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
        self.expected = plain * self.change if diagonal else plain @ self.change
        self.weights = dict(self.module.named_parameters())
        self.saved = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def output(self) -> Tensor:
        """The module's output, in float64."""
        with torch.no_grad():
            output = self.module(*self.args, **self.kwargs)
        state: Tensor = output[0] if isinstance(output, tuple) else output
        return state.double().cpu()

    def fits(self, axes: Sequence[tuple[str, int, float]]) -> bool:
        """Whether the output is multiplied by the map if these weights are, along these axes."""
        with torch.no_grad():
            for name, axis, offset in axes:
                self.weights[name].copy_(folded(self.saved[name], axis, offset, self.change))
        tolerance = ROUNDING[hidden_of(self.args, self.kwargs).element_size()]
        return bool((self.output() - self.expected).norm() <= tolerance * self.expected.norm())


def _first_fitting(
    own: str, twin: _Twin, groups: Sequence[Sequence[str]], offsets: Sequence[float]
) -> Axes | None:
    """The first choice of axes and offsets that fits; the weights of a group have the same."""
    width = len(twin.change)
    possible = [
        [(axis, offset) for axis, size in enumerate(twin.weights[group[0]].shape) for offset in offsets
         if size == width]
        for group in groups
    ]  # fmt: skip
    for chosen in product(*possible) if groups else ():
        pairs = zip(groups, chosen, strict=True)
        axes = [(name, axis, offset) for group, (axis, offset) in pairs for name in group]
        if twin.fits(axes):
            return Axes(tuple((f"{own}.{name}", axis, offset) for name, axis, offset in axes))
    return None


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            if weight.is_floating_point():
                weight.copy_((torch.randn(weight.shape, generator=generator) * STD).to(weight))
