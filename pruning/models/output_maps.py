"""Find out how a linear map of what a sub-layer adds to the hidden state can be folded into its weights.

A sub-layer adds c * o, in which o is the output of its main module and c is 1 in most models. To add c * o T instead,
with a matrix T (D, D), the last weights are multiplied by T along the axis of the outputs: exact if o is linear in
these weights, so also for a sum over experts. If the block normalises o before it is added (Gemma), only a diagonal T
can be folded, into the weight of that norm, which multiplies by w or by 1 + w. Which case it is, is found by probes
with random values, and not by names:

- the main module's output is replaced by random z, then by z T; what is added must change from c * z to c * z T;
- a copy of the main module gets random weights; its last weights, multiplied by T, must change its output to o T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.core.errors import InputError, UnskippableError
from pruning.models.block_probe import input_device
from pruning.models.blocks import BlockInputs, enter
from pruning.models.causality import IDS
from pruning.models.output_axes import Axes, norm_axes, output_axes
from pruning.models.output_weights import output_weights
from pruning.models.units import Chain, find_chain

FORMS = ("linear", "diagonal")
# Largest relative difference that is still rounding; any other structure gives differences of about 1.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.05}
ADVICE = "Choose compensation=magnitude or compensation=none."
WRONG_ADVICE = " Remove whole blocks with unit=block."  # what helps against masks over sub-layers
LARGE = 30.0  # size of a random output relative to the hidden state, so that rounding of their sum is small


@dataclass(frozen=True)
class Fold:
    """Where a map of what sub-layer `unit` adds is folded in.

    `form` says which maps can be: `linear` or `diagonal`. `adder` is the module whose output, times `factor`, is
    added; it has the width D = `width`. `axes` are the weights, and how they are multiplied. `why` is the reason if a
    full map cannot be folded.
    """

    unit: int
    form: str
    adder: nn.Module
    factor: float
    width: int
    axes: Axes
    why: str | None = None


_cache: WeakKeyDictionary[nn.Module, dict[int, Fold]] = WeakKeyDictionary()


def find_fold(model: nn.Module, unit: int, form: str) -> Fold:
    """How a map of the given form is folded into sub-layer `unit`; if only a diagonal one can be, its form says so.

    The block is run on four tokens. Raises InputError, with the reason, if no map can be folded.
    """
    known = _cache.setdefault(model, {})
    if unit not in known:
        known[unit] = _found(model, unit)
    return replace(known[unit], form="diagonal") if form == "diagonal" else known[unit]


def _found(model: nn.Module, unit: int) -> Fold:
    """How a map is folded into a sub-layer: a full one if that is possible, else a diagonal one."""
    try:
        chain = find_chain(model, "sublayer")
        names = output_weights(model, [unit])[unit]
    except UnskippableError as error:
        raise InputError(f"{str(error).removesuffix(WRONG_ADVICE)} {ADVICE}") from error
    probe, (main, *others) = _Probe(model, chain, unit), chain.sublayers[unit].mains
    if others:
        why = f"{1 + len(others)} modules compute it"
    elif (factor := probe.factor(main, diagonal=False)) is not None:
        path = f"{chain.blocks.path}.{unit // 2}."
        if (axes := output_axes(model, main, names, path)) is not None:
            return Fold(unit, "linear", main, factor, probe.width, axes)
        why = "its output is not linear in its last weights"
    else:
        why = "the block normalises what the sub-layer returns before it is added"
        for norm in probe.later():
            factor = probe.factor(norm, diagonal=True)
            if factor is not None and (axes := norm_axes(model, norm)) is not None:
                return Fold(unit, "diagonal", norm, factor, probe.width, axes, why)
    raise InputError(
        f"no map can be folded into the {('attention', 'MLP')[unit % 2]} of block {unit // 2} "
        f"({type(main).__name__}): {why}. {ADVICE}"
    )


class _Probe:
    """Runs one sub-layer on four tokens, with the outputs of a module replaced."""

    def __init__(self, model: nn.Module, chain: Chain, unit: int) -> None:
        self.chain, self.unit = chain, unit
        self.block = chain.blocks.modules[unit // 2]
        self.entry: BlockInputs
        with torch.no_grad():
            self.entry = enter(model, input_ids=torch.tensor(IDS, device=input_device(model)))

        self.width = self.entry.hidden.shape[-1]

    def added(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        """What the sub-layer adds (1, 4, D), in float64, if `change` changes the output of a module."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        handle = module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                after = self.chain.run(self.unit, self.entry.hidden, self.entry)
        finally:
            handle.remove()
        return after.double() - self.entry.hidden.to(after.device).double()

    def factor(self, module: nn.Module, diagonal: bool) -> float | None:
        """The c of what is added, c * o, if o is the output of this module; None if something else is added."""
        hidden, generator = self.entry.hidden, torch.Generator().manual_seed(0)
        width = hidden.shape[-1]
        noise = torch.randn(4, width, generator=generator, dtype=torch.float64)
        noise *= LARGE * float(hidden.double().pow(2).mean().sqrt() + 0.1)
        change = random_map(width, diagonal, generator)

        def given(values: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda output: values.to(output).view_as(output)

        try:
            plain, mapped = (self.added(module, given(v)).cpu() for v in (noise, mapped_by(noise, change)))
        except (RuntimeError, TypeError, ValueError):
            return None
        known = noise.to(hidden.dtype).double().view_as(plain)
        factor = float((plain * known).sum() / (known * known).sum())
        tolerance = ROUNDING[hidden.dtype]
        if factor == 0 or not close(plain, factor * known, tolerance):
            return None
        if not close(mapped, factor * mapped_by(known, change), tolerance):
            return None
        return 1.0 if abs(factor - 1) < tolerance / 10 else factor

    def later(self) -> Iterator[nn.Module]:
        """The children of the block that run in this sub-layer after its main module."""
        ran: list[nn.Module] = []
        handles = [
            child.register_forward_hook(lambda m, *_: ran.append(m)) for child in self.block.children()
        ]
        try:
            with torch.no_grad():
                self.chain.run(self.unit, self.entry.hidden, self.entry)
        finally:
            for handle in handles:
                handle.remove()
        last = self.chain.sublayers[self.unit].children[-1]
        yield from ran[ran.index(last) + 1 :]


def random_map(width: int, diagonal: bool, generator: torch.Generator) -> Tensor:
    """A random map in float64: a matrix (D, D), or the diagonal (D,) of one."""
    if diagonal:
        return torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
    matrix: Tensor = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    return matrix


def mapped_by(values: Tensor, change: Tensor) -> Tensor:
    """Values (..., D), multiplied by a matrix (D, D) from the right, or by a diagonal (D,)."""
    return values * change if change.dim() == 1 else values @ change


def close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the norm of a difference is at most `tolerance` times the norm of what is expected."""
    return bool((actual - expected).norm() <= tolerance * expected.norm())
