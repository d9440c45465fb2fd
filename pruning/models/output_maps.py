"""Repairs: linear maps of what sub-layers add to the hidden state, folded into the sub-layers' weights.

A sub-layer adds c * o, where o is the output of its main module and c is 1 in most models. To make it add
c * o T instead, with a matrix T (D, D), its last weights are multiplied by T along their output axis. If the
block normalises o before adding it (Gemma), T must be diagonal. It is then folded into the norm's weight
w; some norms multiply by w, others by 1 + w. Which case applies is tested with random values; names are not used.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, UnskippableError
from pruning.core.mask import unit_names
from pruning.models.blocks import (
    Arguments,
    BlockInputs,
    OncePerModel,
    calls_of,
    enter,
    few_tokens,
    hidden_state,
    logits_of,
    with_state,
)
from pruning.models.sublayers import Chain, find_chain

# Relative differences up to this value count as rounding, by bytes per number. A wrong fold gives about 1.
ROUNDING = {8: 1e-6, 4: 1e-3, 2: 0.05}
ADVICE = "Choose compensation=magnitude or compensation=none."
WRONG_ADVICE = " Remove whole blocks with unit=block."  # ends errors about masks over sub-layers
LARGE = 30.0  # the size of random outputs relative to the hidden state, so that rounding matters little
STD = 0.5  # the standard deviation of random weights

NAME = "repair.safetensors"
Precision = Callable[[str, torch.dtype], torch.dtype]


@dataclass(frozen=True)
class Repair:
    """A float32 map, (D, D) or (D,), for each repaired unit. Unit 2i is block i's attention, unit 2i + 1 its MLP.

    A map multiplies what its sub-layer adds to the hidden state. The file `repair.safetensors` stores each
    map as a tensor named after its sub-layer, such as `m3`.
    """

    maps: Mapping[int, Tensor]

    @cached_property
    def sha256(self) -> str:
        """A digest of all maps: equal digests mean equal repairs."""
        digest = hashlib.sha256()
        for unit, values in sorted(self.maps.items()):
            digest.update(f"{unit} {tuple(values.shape)} ".encode())
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def names(self) -> tuple[str, ...]:
        """The repaired sub-layers in short notation, such as `m3`."""
        return tuple(_short(unit) for unit in sorted(self.maps))

    def save(self, folder: Path) -> None:
        """Write `repair.safetensors` atomically."""
        from safetensors.torch import save

        tensors = {_short(unit): self.maps[unit].contiguous() for unit in sorted(self.maps)}
        storage.write_bytes(folder / NAME, save(tensors))


def read_repair(folder: Path, sha256: str) -> Repair:
    """The repair in a folder. Raises DamagedError if it is missing, cannot be read, or has another digest."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, repair = folder / NAME, None
    with suppress(OSError, SafetensorError, ValueError):
        tensors = load(path.read_bytes())
        repair = Repair({2 * int(name[1:]) + "am".index(name[0]): value for name, value in tensors.items()})
    if repair is None or repair.sha256 != sha256:
        raise DamagedError(
            f"{path} is damaged, or holds other maps than the result says: move the folder away and run the cell "
            "again."
        )
    return repair


@contextmanager
def repaired(model: Any, repair: Repair | None) -> Iterator[None]:
    """Within this context, a repair is folded into the model's weights; None changes nothing. See `replaced`."""
    with replaced(model, {} if repair is None else folded_weights(model, repair)):
        yield


@contextmanager
def replaced(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context, the given weights replace the model's own; create any `Forward` inside the context."""
    parameters = {name: model.get_parameter(name) for name in weights}
    saved = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = saved[name]


def folded_weights(model: Any, repair: Repair, precision: Precision | None = None) -> dict[str, Tensor]:
    """The new values of the weights into which a repair's maps are folded, by their names in the model.

    Products are computed in float64 and rounded to the dtype `precision(name, dtype)` or, if `precision` is
    None, to the weight's dtype. Raises InputError if a map cannot be folded.
    """
    found = {}
    for unit, change in sorted(repair.maps.items()):
        fold = find_fold(model, unit)
        if fold.form == "diagonal" and change.dim() == 2:
            raise InputError(f"the map of {_short(unit)} cannot be folded: {fold.why}.")
        for name, axis, offset in fold.axes:
            weight = model.get_parameter(name)
            values = _folded(weight.detach(), axis, offset, change)
            rounded = values.to(weight.dtype if precision is None else precision(name, weight.dtype))
            found[name] = rounded.to(weight.dtype).contiguous()
    return found


def _short(unit: int) -> str:
    return unit_names("sublayer", [unit])[0]


def _folded(weight: Tensor, axis: int, offset: float, change: Tensor) -> Tensor:
    """The weight in float64, changed so that weight + offset is multiplied by a map (D, D) or (D,) along `axis`."""
    last = weight.double().movedim(axis, -1) + offset
    return (_mapped(last, change.double().to(last.device)) - offset).movedim(-1, axis)


def _mapped(values: Tensor, change: Tensor) -> Tensor:
    """Values (..., D), multiplied by a matrix (D, D) from the right, or by a diagonal (D,)."""
    return values * change if change.dim() == 1 else values @ change


# Where a map is folded in.

# A weight's name in the model, the axis of its outputs, and an offset: a map multiplies (offset + weight) along the
# axis. The offset is 1 for a norm that multiplies by 1 + weight, and 0 for everything else.
Axis = tuple[str, int, float]


@dataclass(frozen=True)
class Fold:
    """The weights into which a map of the sub-layer `unit` can be folded.

    `form` is `linear` or, if only a diagonal map can be folded, `diagonal`, with the reason in `why`. The
    sub-layer adds `factor` times the output of `adder`, whose width is D = `width`. `axes` lists the weights,
    and how a map multiplies them.
    """

    unit: int
    form: str
    adder: nn.Module
    factor: float
    width: int
    axes: tuple[Axis, ...]
    why: str | None = None


@OncePerModel
def _folds(_model: nn.Module) -> dict[int, Fold]:
    """The folds found so far, by unit."""
    return {}


def find_fold(model: nn.Module, unit: int) -> Fold:
    """The fold for the sub-layer `unit`: one for any linear map if possible, else one for diagonal maps only.

    The block is run on four tokens. Raises InputError, with the reason, if no map can be folded.
    """
    folds = _folds(model)
    if unit not in folds:
        folds[unit] = _found(model, unit)
    return folds[unit]


def _found(model: nn.Module, unit: int) -> Fold:
    try:
        chain = find_chain(model, "sublayer")
        names = output_weights(model, [unit])[unit]
    except UnskippableError as error:
        raise InputError(f"{str(error).removesuffix(WRONG_ADVICE)} {ADVICE}") from error
    block, main = chain.blocks.modules[unit // 2], chain.sublayers[unit].main
    with torch.no_grad():
        entry = enter(model, input_ids=few_tokens(model))
    width = entry.hidden.shape[-1]
    if (factor := _factor(chain, unit, main, entry)) is not None:
        path = f"{chain.blocks.path}.{unit // 2}."
        if (axes := _axes(model, main, [path + name for name in names])) is not None:
            return Fold(unit, "linear", main, factor, width, axes)
        why = "its output is not linear in its last weights"
    else:
        why = "the block normalises what the sub-layer returns before it is added"
        with calls_of(block.children()) as calls, torch.no_grad():
            chain.run(unit, entry.hidden, entry)
        ran = [call.module for call in calls]
        for norm in ran[ran.index(main) + 1 :]:
            factor = _factor(chain, unit, norm, entry)
            if factor is not None and (axes := _axes(model, norm)) is not None:
                return Fold(unit, "diagonal", norm, factor, width, axes, why)
    raise InputError(
        f"no map can be folded into the {('attention', 'MLP')[unit % 2]} of block {unit // 2} "
        f"({type(main).__name__}): {why}. {ADVICE}"
    )


def _factor(chain: Chain, unit: int, module: nn.Module, entry: BlockInputs) -> float | None:
    """The factor c if the sub-layer adds c * o, where o is the output of `module`; None if it adds something else.

    The block runs only this sub-layer, with a random o; its output minus its input must be c * o.
    """
    hidden = entry.hidden
    noise = torch.randn(4, hidden.shape[-1], generator=_seeded(), dtype=torch.float64)
    noise *= LARGE * float(hidden.double().pow(2).mean().sqrt() + 0.1)

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (noise.to(output[0]).view_as(output[0]), *output[1:])
        return noise.to(output).view_as(output)

    handle = module.register_forward_hook(hook)
    try:
        with torch.no_grad():
            after = chain.run(unit, hidden, entry)
    except (RuntimeError, TypeError, ValueError):
        return None
    finally:
        handle.remove()
    added = (after.double() - hidden.to(after.device).double()).cpu()
    known = noise.to(hidden.dtype).double().view_as(added)
    factor = float((added * known).sum() / (known * known).sum())
    tolerance = ROUNDING[hidden.element_size()]
    if factor == 0 or not _close(added, factor * known, tolerance):
        return None
    return 1.0 if abs(factor - 1) < tolerance / 10 else factor


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((actual - expected).norm() <= tolerance * expected.norm())


# The output axes of weights. A sub-layer's last weights can be stored as (out, in), (in, out) or one tensor
# of all experts; biases have one axis. The shape of a square matrix does not show which axis is for outputs.
# So each axis is tried on a copy with random weights: the right one multiplies the copy's output by the map.


class _Twin:
    """A copy of a module with random weights (`saved`), and its arguments, in which the hidden state is random."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.generator = _seeded()
        if (state := hidden_state(args, kwargs)) is not None:
            noise = torch.randn(state.shape, generator=self.generator).to(state)
            args, kwargs = with_state(args, kwargs, noise)
        self.args, self.kwargs = args, kwargs
        self.module = copy.deepcopy(module)
        self.weights = {n: w for n, w in self.module.named_parameters() if w.is_floating_point()}
        self.saved = {
            name: (torch.randn(weight.shape, generator=self.generator) * STD).to(weight.detach())
            for name, weight in self.weights.items()
        }
        self.set(self.saved)

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Set weights of the copy to `values`, by name."""
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)

    def output(self) -> Tensor:
        """The copy's output."""
        with torch.no_grad():
            output = self.module(*self.args, **self.kwargs)
        state: Tensor = output[0] if isinstance(output, tuple) else output
        return state

    def in_order(self, names: Iterable[str]) -> list[str]:
        """The names of weights, sorted by when the module that owns the weight returns."""
        with calls_of(self.module.modules()) as calls:
            self.output()
        order = {call.module: number for number, call in enumerate(calls)}
        owners = {name: self.module.get_submodule(name.rpartition(".")[0]) for name in names}
        return sorted(owners, key=lambda name: order.get(owners[name], -1))


def _axes(model: nn.Module, module: nn.Module, names: Sequence[str] = ()) -> tuple[Axis, ...] | None:
    """The axes of a module's weights along which a map of its output can be folded in; None if no axes fit.

    `names` are the last weights of a main module. If `names` is empty, the module is a norm: all its weights
    are used, each with the offset 0 or 1, and the map is diagonal.
    """
    own, twin = _name_of(model, module), _Twin(module, *_module_inputs(model, [module])[module])
    weights = twin.in_order(name.removeprefix(f"{own}.") for name in names) or [*twin.weights]
    plain = twin.output()
    tolerance, width = ROUNDING[plain.element_size()], plain.shape[-1]
    plain = plain.double().cpu()
    shape = (width, width) if names else (width,)
    change = torch.randn(shape, generator=twin.generator, dtype=torch.float64)
    possible = [
        [(name, axis, offset) for axis, size in enumerate(twin.weights[name].shape)
         for offset in ((0.0,) if names else (0.0, 1.0)) if size == width]
        for name in weights
    ]  # fmt: skip
    for axes in product(*possible) if weights else ():
        twin.set({name: _folded(twin.saved[name], axis, offset, change) for name, axis, offset in axes})
        if _close(twin.output().double().cpu(), _mapped(plain, change), tolerance):
            return tuple((f"{own}.{name}", axis, offset) for name, axis, offset in axes)
    return None


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name


# The output weights of a sub-layer: if they are zeros, the sub-layer adds exactly zero.
#
# These are the output projection of attention, or the last projection of an MLP or its experts, with biases.
# To find them, a copy of the main module gets zero weights and must return zeros. Then weights get random
# values, one by one, in the order in which modules return. If a weight makes the output non-zero, it becomes
# zero again. The weights that are zero at the end are a minimal set: those used last.


def output_weights(model: nn.Module, units: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The names of each sub-layer's output weights in its block, such as `mlp.down_proj.weight`, by unit.

    The model is run once on four tokens. Raises UnskippableError if blocks do not have two sub-layers, or if
    a sub-layer's main module does not return zeros when its weights are zeros.
    """
    chain = find_chain(model, "sublayer")
    blocks, sublayers = chain.blocks.modules, chain.sublayers
    mains = {unit: sublayers[unit].main for unit in units}
    inputs = _module_inputs(model, [*mains.values()])
    found: dict[int, tuple[str, ...]] = {}
    for unit, main in mains.items():
        if not (names := _last(main, *inputs[main])):
            kind = "attention" if unit % 2 == 0 else "MLP"
            raise UnskippableError(
                f"the {kind} of block {unit // 2} ({type(main).__name__}) does not return zeros if all its "
                f"weights are zeros, so it cannot be switched off by weights.{WRONG_ADVICE}"
            )
        prefix = _name_of(blocks[unit // 2], main)
        found[unit] = tuple(f"{prefix}.{name}" for name in names)
    return found


def _module_inputs(model: nn.Module, modules: Sequence[nn.Module]) -> dict[nn.Module, Arguments]:
    """The arguments with which the model calls each of `modules` on four tokens."""
    with calls_of(modules) as calls, torch.no_grad():
        logits_of(model, few_tokens(model))
    return {call.module: (call.args, call.kwargs) for call in calls}


def _last(main: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A minimal set of weight names: if these weights are 0, the module returns zeros; empty if no set does this."""
    twin = _Twin(main, args, kwargs)
    names, zeros = twin.in_order(twin.weights), {n: torch.zeros_like(w) for n, w in twin.saved.items()}
    twin.set(zeros)
    if twin.output().any():
        return []
    last = []
    for name in names:
        twin.set({name: twin.saved[name]})
        if twin.output().any():
            twin.set({name: zeros[name]})
            last.append(name)
    return last
