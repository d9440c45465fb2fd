"""Find the blocks of a model by its structure, and refuse a model whose blocks cannot be removed one by one.

The blocks are found by running the model on four tokens, and once more on other tokens to check that the model is
causal. Exactly one list of modules must form a chain: the forward
pass calls every module once, in order, on the output of the previous module. Names of models and modules are not
used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.models.causality import IDS, check_causal, logits_of
from pruning.models.config_check import check_config


@dataclass(frozen=True)
class Blocks:
    """The decoder blocks of a model, in order; `path` is the name of their list in the model.

    `extra` is how many values a block returns besides the hidden state, or None if the block returns only a tensor.
    """

    path: str
    modules: tuple[nn.Module, ...]
    extra: int | None


@dataclass
class _Call:
    module: nn.Module
    hidden: Tensor | None
    inputs: list[Any]
    dicts: list[tuple[dict[Any, Any], int]]
    output: Any = None


@dataclass
class _Trace:
    calls: list[_Call] = field(default_factory=list)
    logits: Tensor | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [*args, *kwargs.values()]
        dicts = [(value, len(value)) for value in inputs if isinstance(value, dict)]
        self.calls.append(_Call(module, hidden_state(args, kwargs), inputs, dicts))

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG002
        self.calls[-1].output = output


_cache: WeakKeyDictionary[nn.Module, Blocks] = WeakKeyDictionary()


def find_blocks(model: nn.Module) -> Blocks:
    """The blocks of a causal language model, checked by two forward passes over four tokens.

    Raises UnskippableError, with the reason, if the blocks cannot be identified or removed safely one by one, or if
    the model is not causal.
    """
    if model not in _cache:
        config: Any = model.config
        check_config(config)
        _cache[model] = _probe(model, config.get_text_config(decoder=True).num_hidden_layers)
    return _cache[model]


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids: the device of the first weight in memory, or the CPU if no weight is in memory."""
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def hidden_state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden state that is passed to a block: the first argument, or the argument `hidden_states`."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    return hidden if isinstance(hidden, Tensor) else None


def _probe(model: nn.Module, count: int) -> Blocks:
    """Run the model on four tokens. Returns the only list of `count` modules that form a chain, as `Blocks`."""
    lists = {
        path: tuple(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not lists:
        raise UnskippableError(f"no list of {count} blocks found in {type(model).__name__}.")
    with evaluating(model):
        return _checked(model, lists)


def _checked(model: nn.Module, lists: dict[str, tuple[nn.Module, ...]]) -> Blocks:
    """The only list whose modules form a chain.

    Raises UnskippableError if there is none, or if the model is not causal.
    """
    traces = {path: _run(model, modules) for path, modules in lists.items()}
    reasons = {path: _why_not(lists[path], trace.calls) for path, trace in traces.items()}
    chains = [path for path, reason in reasons.items() if reason is None]
    if len(chains) != 1:
        why = f"several lists of blocks fit: {chains}" if chains else "; ".join(map(str, reasons.values()))
        raise UnskippableError(f"blocks of {type(model).__name__} cannot be skipped safely: {why}.")
    logits = traces[chains[0]].logits
    assert logits is not None
    check_causal(model, logits, input_device(model))
    output = traces[chains[0]].calls[0].output
    extra = len(output) - 1 if isinstance(output, tuple) else None
    return Blocks(chains[0], lists[chains[0]], extra)


def _run(model: nn.Module, modules: tuple[nn.Module, ...]) -> _Trace:
    trace = _Trace()
    handles = [module.register_forward_pre_hook(trace.before, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(trace.after, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            trace.logits = logits_of(model, torch.tensor(IDS, device=input_device(model)))
    finally:
        for handle in handles:
            handle.remove()
    return trace


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context, a model is in evaluation mode; on exit, each of its modules gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def gradients_kept(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within this context, weights can be frozen or trained; on exit, each has or has no gradient as before."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)


def _why_not(modules: tuple[nn.Module, ...], calls: list[_Call]) -> str | None:
    """The reason why these modules cannot be skipped one by one; None if they can."""
    if [call.module for call in calls] != list(modules):
        return "its members are not called once each, in order"
    for index, call in enumerate(calls):
        values = call.output if isinstance(call.output, tuple) else (call.output,)
        if call.hidden is None or call.hidden.dim() != 3:
            return f"block {index} does not take a hidden state (batch, tokens, width) as its first argument"
        if not isinstance(values[0], Tensor) or values[0].shape != call.hidden.shape:
            return f"block {index} does not return a hidden state of the shape of its input"
        if any(len(value) != size for value, size in call.dicts):
            return f"block {index} adds entries to a dictionary that later blocks may read"
        if index + 1 < len(calls):
            following = calls[index + 1]
            if following.hidden is None or not _same(following.hidden, values[0]):
                return f"block {index + 1} does not take what block {index} returns"
            if any(value is other for value in values[1:] if value is not None for other in following.inputs):
                return f"block {index} passes more than the hidden state on to block {index + 1}"
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.to(b.device), b))
