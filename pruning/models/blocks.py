"""Find a model's blocks by its structure. Run the part before them, single blocks, or the part after them.

The blocks are found by running the model on four tokens. Exactly one list of modules must form a chain: the forward
pass calls every module once, in order, on the output of the previous module. Module names are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.core.errors import UnskippableError
from pruning.models.architecture import check_config

Found = TypeVar("Found")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

IDS = ((1, 2, 3, 4),)
CHANGED = ((1, 2, 3, 1),)  # differs from IDS in the last token
# If earlier logits change by at most this fraction of the largest logit, the change counts as rounding. In a
# trained bidirectional model, they change by tens of percent.
ROUNDING = 0.05


@dataclass(frozen=True)
class Blocks:
    """The decoder blocks of a model, in order; `path` is the name of their list in the model.

    `extra` is the number of values after the hidden state in a block's output; None if the output is not a tuple.
    """

    path: str
    modules: tuple[nn.Module, ...]
    extra: int | None


@dataclass(frozen=True)
class BlockInputs:
    """The blocks' inputs in a forward pass: block 0's hidden state (B, T, D), and each block's other arguments."""

    hidden: Tensor
    others: tuple[Arguments, ...]


@dataclass(frozen=True)
class OncePerModel(Generic[Found]):
    """A function that computes `find(model)` once per model, and keeps the result while the model exists."""

    find: Callable[[nn.Module], Found]
    known: WeakKeyDictionary[nn.Module, Found] = field(default_factory=WeakKeyDictionary)

    def __call__(self, model: nn.Module) -> Found:
        """The result for a model."""
        if model not in self.known:
            self.known[model] = self.find(model)
        return self.known[model]


@OncePerModel
def find_blocks(model: nn.Module) -> Blocks:
    """The blocks of a causal model. Raises UnskippableError if a block cannot be removed safely."""
    config: Any = model.config
    check_config(config)
    name, count = type(model).__name__, config.get_text_config(decoder=True).num_hidden_layers
    lists = {
        path: tuple(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not lists:
        raise UnskippableError(f"no list of {count} blocks found in {name}.")
    chains, reasons = {}, []
    with evaluating(model):
        for path, modules in lists.items():
            with calls_of(modules) as calls, torch.no_grad():
                logits = logits_of(model, few_tokens(model))
            if (reason := _why_not(modules, calls)) is not None:
                reasons.append(reason)
            else:
                chains[path] = logits, extra_of(calls[0].output)
        if len(chains) != 1:
            why = f"several lists of blocks fit: {[*chains]}" if chains else "; ".join(reasons)
            raise UnskippableError(f"blocks of {name} cannot be skipped safely: {why}.")
        ((path, (logits, extra)),) = chains.items()
        check_causal(model, logits)
    return Blocks(path, lists[path], extra)


class _Reached(Exception):  # noqa: N818 - a signal that the last block was reached, not an error
    pass


def enter(model: nn.Module, **inputs: Any) -> BlockInputs:
    """Run a model up to its blocks and record the arguments that it would pass to each block; no block is run.

    The arguments include the attention mask for the block's kind of attention. They can be reused with any
    hidden state of the same shape.
    """
    blocks = find_blocks(model)
    hiddens: list[Tensor] = []
    others: list[Arguments] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        hiddens.append(hidden)
        others.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        if len(others) == len(blocks.modules):
            raise _Reached
        return returned(hidden, blocks.extra)

    with ExitStack() as stack:
        for module in blocks.modules:
            stack.enter_context(swapped(module, "forward", record))
        with suppress(_Reached):
            model(**inputs, use_cache=False)
    return BlockInputs(hiddens[0], tuple(others))


def apply(blocks: Blocks, index: int, hidden: Tensor, entry: BlockInputs) -> Tensor:
    """The output (B, T, D) of block `index` for `hidden` and the arguments in `entry`, made for this shape."""
    args, kwargs = entry.others[index]
    output = blocks.modules[index](hidden, *args, **kwargs)
    result: Tensor = output if blocks.extra is None else output[0]
    return result


def head(model: Any, hidden: Tensor) -> Tensor:
    """The logits (n, V) for hidden states (n, D) after the last block.

    The model runs on n sequences of one token each. Its blocks are skipped; `hidden` replaces their output.
    """
    blocks = find_blocks(model)
    output = returned(hidden[:, None], blocks.extra)  # (n, 1, D)
    # Any token except padding. Some configurations, such as RWKV's, have no pad token.
    filler = 1 if getattr(model.config.get_text_config(decoder=True), "pad_token_id", None) == 0 else 0
    ids = torch.full((len(hidden), 1), filler, device=input_device(model))
    with ExitStack() as stack:
        for index, module in enumerate(blocks.modules):
            replacement = identity(blocks.extra) if index else lambda *_, **__: output
            stack.enter_context(swapped(module, "forward", replacement))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)  # its gradient needs no tensor of zeros, as that of an index would


def scaled_before(module: nn.Module, factor: float) -> RemovableHandle:
    """Register a hook that multiplies the hidden state by `factor` before a block; returns the hook's handle."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        return with_state(args, kwargs, hidden * factor)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def scaled_after(module: nn.Module, factor: float) -> RemovableHandle:
    """Register a hook that multiplies the hidden state by `factor` after a block; returns the hook's handle."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return module.register_forward_hook(hook)


# How blocks are found.


@dataclass(frozen=True)
class Call:
    """A call of a module; `dicts` are the dictionaries among its arguments, with their sizes before the call."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    dicts: list[tuple[dict[Any, Any], int]]


@contextmanager
def calls_of(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Yield a list. Within this context, each call of one of the modules is appended to it when the call ends."""
    calls: list[Call] = []
    dicts: dict[nn.Module, list[tuple[dict[Any, Any], int]]] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = (*args, *kwargs.values())
        dicts[module] = [(value, len(value)) for value in values if isinstance(value, dict)]

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(module, args, dict(kwargs), output, dicts[module]))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield calls


def _why_not(modules: tuple[nn.Module, ...], calls: Sequence[Call]) -> str | None:
    """The reason why these modules cannot be skipped one by one; None if they can."""
    if [call.module for call in calls] != list(modules):
        return "its members are not called once each, in order"
    for index, call in enumerate(calls):
        hidden = hidden_state(call.args, call.kwargs)
        values = call.output if isinstance(call.output, tuple) else (call.output,)
        if hidden is None or hidden.dim() != 3:
            return f"block {index} does not take a hidden state (batch, tokens, width) as its first argument"
        if not isinstance(values[0], Tensor) or values[0].shape != hidden.shape:
            return f"block {index} does not return a hidden state of the shape of its input"
        if any(len(value) != size for value, size in call.dicts):
            return f"block {index} adds entries to a dictionary that later blocks may read"
        if index + 1 < len(calls):
            following = calls[index + 1]
            inputs = (*following.args, *following.kwargs.values())
            taken = hidden_state(following.args, following.kwargs)
            given = values[0]
            if taken is None or (taken is not given and not torch.equal(taken, given.to(taken.device))):
                return f"block {index + 1} does not take what block {index} returns"
            if any(value is other for value in values[1:] if value is not None for other in inputs):
                return f"block {index} passes more than the hidden state on to block {index + 1}"
    return None


def check_causal(model: Any, logits: Tensor) -> None:
    """Raise UnskippableError if the logits of earlier tokens depend on the last token.

    A masked language model such as BERT also has logits, but its input contains the tokens that it predicts.
    `logits` (1, T, V) are the logits for IDS. Changes up to ROUNDING are allowed: experts can round differently.
    """
    with torch.no_grad():
        other = logits_of(model, torch.tensor(CHANGED, device=input_device(model)))
    before, after = logits[:, :-1].nan_to_num(), other[:, :-1].nan_to_num()
    if (after - before).abs().max() > ROUNDING * before.abs().max():
        raise UnskippableError(
            f"{type(model).__name__} is not a causal language model: another last token changes the logits of the "
            "tokens before it, so it has no perplexity. Give a model that predicts the next token."
        )


# Inputs and outputs of models and of their modules.


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids: the device of the first weight in memory, or the CPU if no weight is in memory."""
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def few_tokens(model: nn.Module) -> Tensor:
    """Four token ids (1, 4), on which a model is run to examine its structure."""
    return torch.tensor(IDS, device=input_device(model))


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits (B, T, V) for token ids (B, T), computed without a cache."""
    output: Any = model(input_ids=ids, use_cache=False)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def hidden_state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first positional argument of a block, or its `hidden_states`; None if this argument is not a tensor."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    return hidden if isinstance(hidden, Tensor) else None


def with_state(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Arguments:
    """The arguments of a block, with `hidden` as the hidden state."""
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def extra_of(output: Any) -> int | None:
    """The number of values after the first in a module's output; None if the output is not a tuple."""
    return len(output) - 1 if isinstance(output, tuple) else None


def returned(hidden: Any, extra: int | None) -> Any:
    """A module's output with the state `hidden`, followed by None `extra` times; `extra` is as in `Blocks`."""
    return hidden if extra is None else (hidden, *[None] * extra)


def identity(extra: int | None) -> Callable[..., Any]:
    """A `forward` method that returns the hidden state unchanged; `extra` is as in `Blocks`."""
    return lambda *args, **kwargs: returned(hidden_state(args, kwargs), extra)


# Temporary changes, which are undone at the end of a context.

_MISSING = object()


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object or a class. On exit, restore its old value, or delete it if there was none."""
    saved = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if saved is _MISSING else setattr(owner, name, saved)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context, a model is in evaluation mode; on exit, the mode of each module is restored."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def gradients_kept(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within this context, `requires_grad` of the weights can be changed; on exit, it is restored."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)
