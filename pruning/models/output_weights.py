"""Find the weights through which a sub-layer writes: if they are zeros, the sub-layer adds exactly nothing.

These are the output projection of attention, or the last projection of an MLP or of all its experts, with biases.
They are found by structure. The sub-layer's main module is copied and gets random weights and a random state, so
that nothing is zero by accident. With all weights zero, it must return zeros. Then weights get their random values
back, one by one in the order in which modules return; if the output is no longer zero, they become zeros again. What
stays zero is a smallest set of weights, the last that are used. The weights of the experts in a list go together,
because not every expert sees one of the few tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.models.block_probe import find_blocks, hidden_state, input_device
from pruning.models.causality import IDS
from pruning.models.sublayers import find_sublayers

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
