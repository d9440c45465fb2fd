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

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.core import storage
from pruning.core.errors import DamagedError, InputError, UnskippableError
from pruning.core.mask import unit_names
from pruning.models.blocks import IDS, BlockInputs, enter, find_blocks, hidden_state, input_device
from pruning.models.sublayers import Chain, find_chain, find_sublayers

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


# Find the axis of a weight along which a linear map of a module's output is folded in, by probes with random values.
#
# The last weights of a sub-layer can be stored as (out, in), as (in, out), or as one tensor of all experts, and
# biases have one axis. Which axis holds the outputs cannot be read off a square matrix. So each choice is tried on
# a copy of the module with random weights: with the right one, the output is multiplied by the map.

# Largest relative difference that is still rounding, by the bytes of a number.
AXES_ROUNDING = {8: 1e-6, 4: 1e-3, 2: 0.05}


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
        tolerance = AXES_ROUNDING[hidden_of(self.args, self.kwargs).element_size()]
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


# Find the weights through which a sub-layer writes: if they are zeros, the sub-layer adds exactly nothing.
#
# These are the output projection of attention, or the last projection of an MLP or of all its experts, with biases.
# They are found by structure. The sub-layer's main module is copied and gets random weights and a random state, so
# that nothing is zero by accident. With all weights zero, it must return zeros. Then weights get their random
# values back, one by one in the order in which modules return; if the output is no longer zero, they become zeros
# again. What stays zero is a smallest set of weights, the last that are used. The weights of the experts in a list
# go together, because not every expert sees one of the few tokens.

STD = 0.5  # of the random weights


def output_weights(model: nn.Module, units: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """For each sub-layer of `units`, the names of its output weights in its block, such as `mlp.down_proj.weight`.

    The model is run once on four tokens. Raises UnskippableError if the blocks have no two sub-layers, or if zero
    weights do not make a sub-layer's main module return zeros.
    """
    blocks, sublayers = find_blocks(model).modules, find_sublayers(model)
    inputs = module_inputs(model, [main for unit in units for main in sublayers[unit].mains])
    found: dict[int, tuple[str, ...]] = {}
    for unit in units:
        for main in sublayers[unit].mains:
            names = _last(main, *inputs[main])
            if not names:
                kind = "attention" if unit % 2 == 0 else "MLP"
                raise UnskippableError(
                    f"the {kind} of block {unit // 2} ({type(main).__name__}) does not return zeros if all its "
                    "weights are zeros, so it cannot be switched off by weights. Remove whole blocks with unit=block."
                )
            prefix = next(name for name, module in blocks[unit // 2].named_modules() if module is main)
            found[unit] = (*found.get(unit, ()), *(f"{prefix}.{name}" for name in names))
    return found


def module_inputs(
    model: nn.Module, mains: Sequence[nn.Module]
) -> dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments with which the model calls some of its modules, for four tokens."""
    inputs: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[module] = args, kwargs

    handles = [main.register_forward_pre_hook(note, with_kwargs=True) for main in mains]
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor(IDS, device=input_device(model)), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _last(main: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """The names of a smallest set of weights that decide whether a module returns zeros; empty if there is none."""
    twin = copy.deepcopy(main)
    generator = torch.Generator().manual_seed(0)
    args, kwargs = random_state(args, kwargs, generator)
    weights = {name: weight for name, weight in twin.named_parameters() if weight.is_floating_point()}
    values = {
        name: (torch.randn(weight.shape, generator=generator) * STD).to(weight)
        for name, weight in weights.items()
    }

    def zero(names: Sequence[str], back: bool = False) -> bool:
        """Make weights zeros, or give them their values back; whether the module then returns zeros."""
        with torch.no_grad():
            for name in names:
                weights[name].copy_(values[name] if back else torch.zeros_like(values[name]))
            output = twin(*args, **kwargs)
        state: Tensor = output[0] if isinstance(output, tuple) else output
        return not state.any()

    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
    groups = weight_groups(twin, list(weights), args, kwargs)
    if not zero(list(weights)):
        return []
    last = []
    for names in groups:
        if not zero(names, back=True):
            zero(names)
            last += names
    return last


def hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first tensor among the arguments of a module; for a block's part, its hidden state."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def random_state(
    args: tuple[Any, ...], kwargs: dict[str, Any], generator: torch.Generator
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a module with a random hidden state of the same shape."""
    state = hidden_state(args, kwargs)
    if state is None:
        return args, kwargs
    noise = torch.randn(state.shape, generator=generator).to(state)
    return ((noise, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": noise})


def weight_groups(
    module: nn.Module, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[list[str]]:
    """Names of weights, in the order in which their modules return; those of the members of a list go together."""
    returned: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda m, *_: returned.append(m)) for m in module.modules()]
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    order = {id(one): number for number, one in enumerate(returned)}
    groups: dict[str, list[str]] = {}
    latest: dict[str, int] = {}
    for name in names:
        pattern = _pattern(module, name)
        owner = module.get_submodule(name.rpartition(".")[0])
        groups.setdefault(pattern, []).append(name)
        latest[pattern] = max(latest.get(pattern, -1), order.get(id(owner), -1))
    return [groups[pattern] for pattern in sorted(groups, key=lambda one: latest[one])]


def _pattern(module: nn.Module, name: str) -> str:
    """The name of a weight without its numbers in lists of modules."""
    parts = name.split(".")
    owners = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    in_list = [isinstance(owner, nn.ModuleList | nn.ParameterList) for owner in owners]
    return ".".join("*" if listed else part for part, listed in zip(parts, in_list, strict=True))


# Repairs: linear maps that stand in for removed units, folded into the weights of the units before them.
#
# A repair holds a map T for some sub-layers: what the sub-layer adds to the hidden state is multiplied by T. The
# file `repair.safetensors` holds one float32 tensor for each, (D, D) or, for a diagonal, (D,), named by its sub-
# layer, such as `m3`. The folded weights are not stored, because they follow from the maps and the dense model.

NAME = "repair.safetensors"
Precision = Callable[[str, torch.dtype], torch.dtype]


@dataclass(frozen=True)
class Repair:
    """The map (D, D) or (D,), in float32, of each repaired sub-layer: unit 2i is attention of block i, 2i + 1 MLP."""

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
        return tuple(unit_names("sublayer", [unit])[0] for unit in sorted(self.maps))

    def save(self, folder: Path) -> None:
        """Write `repair.safetensors` atomically."""
        from safetensors.torch import save

        tensors = {
            name: self.maps[unit].contiguous()
            for name, unit in zip(self.names(), sorted(self.maps), strict=True)
        }
        storage.write_bytes(folder / NAME, save(tensors))


def read_repair(folder: Path, sha256: str) -> Repair:
    """The repair in a folder. Raises DamagedError if it is missing, cannot be read, or has another digest."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / NAME
    try:
        tensors = load(path.read_bytes())
        repair = Repair({2 * int(name[1:]) + "am".index(name[0]): value for name, value in tensors.items()})
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(
            f"{path}, the maps of the repaired cell, cannot be read: move the folder away and run the cell again."
        ) from error
    if repair.sha256 != sha256:
        raise DamagedError(
            f"{path} holds other maps than the result says: run the cell again in a new folder."
        )
    return repair


def folded_weights(model: Any, repair: Repair, precision: Precision | None = None) -> dict[str, Tensor]:
    """The weights into which maps are folded, by their names in the model.

    Products are computed in float64 and rounded once, to the dtype that `precision` gives for a weight's name and
    dtype (None: the weight's own). Raises InputError if a map cannot be folded, or if a weight is not in memory.
    """
    found = {}
    for unit, change in sorted(repair.maps.items()):
        fold = find_fold(model, unit, "diagonal" if change.dim() == 1 else "linear")
        if fold.form == "diagonal" and change.dim() == 2:
            raise InputError(f"the map of {unit_names('sublayer', [unit])[0]} cannot be folded: {fold.why}.")
        for name, axis, offset in fold.axes.axes:
            weight = model.get_parameter(name)
            check_in_memory(weight)
            values = folded(weight.detach(), axis, offset, change)
            rounded = values.to(weight.dtype if precision is None else precision(name, weight.dtype))
            found[name] = rounded.to(weight.dtype).contiguous()
    return found


def check_in_memory(weight: Tensor) -> None:
    """Raise InputError if a weight is on disk, where it cannot be replaced."""
    if weight.device.type == "meta":
        raise InputError(
            "maps cannot be folded into weights that are offloaded: use a larger machine, a smaller model.dtype, or "
            "compensation=magnitude."
        )


@contextmanager
def replaced(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context the model has other values for some weights; on exit the old ones are back, bit for bit.

    A state that was computed outside must not be used inside: use a new `Forward`.
    """
    with ExitStack() as stack:
        for name, values in weights.items():
            stack.enter_context(_replaced(model.get_parameter(name), values))
        yield


@contextmanager
def repaired(model: Any, repair: Repair | None) -> Iterator[None]:
    """Within this context the model has the folded weights of a repair, if there is one; see `replaced`."""
    with replaced(model, {} if repair is None else folded_weights(model, repair)):
        yield


@contextmanager
def _replaced(parameter: Any, values: Tensor) -> Iterator[None]:
    saved = parameter.data
    parameter.data = values
    try:
        yield
    finally:
        parameter.data = saved
