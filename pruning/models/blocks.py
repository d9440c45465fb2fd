"""Find the blocks of a model and skip some of them. Only this module and forward.py depend on what a unit is.

Blocks are found by structure, never by the model's name: a list of modules that a forward pass calls once each,
in order, each passing its output to the next. Skipping replaces a block's `forward` within a context, so the
block is not run and its weights are not read. If a forward hook overrode the output instead, the block would
still run. The module's class, the model's loop and its per-layer masks do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask

_MISSING = object()


@dataclass(frozen=True)
class Blocks:
    """The decoder blocks of a model, in order; `path` is the name of their list in the model.

    `extra` is how many values a block returns besides the hidden state, or None if it returns a tensor.
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

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [*args, *kwargs.values()]
        dicts = [(value, len(value)) for value in inputs if isinstance(value, dict)]
        self.calls.append(_Call(module, _hidden(args, kwargs), inputs, dicts))

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG002
        self.calls[-1].output = output


_cache: WeakKeyDictionary[nn.Module, Blocks] = WeakKeyDictionary()


def find_blocks(model: nn.Module) -> Blocks:
    """The blocks of a causal language model, checked by one forward pass over four tokens.

    Raises UnskippableError, with the reason, if the blocks cannot be identified or removed safely one by one.
    """
    if model not in _cache:
        config: Any = model.config
        check_config(config)
        _cache[model] = _probe(model, config.get_text_config(decoder=True).num_hidden_layers)
    return _cache[model]


@contextmanager
def masked(model: nn.Module, mask: Mask, scales: Sequence[float] | None = None) -> Iterator[None]:
    """Within this context the dropped blocks are identities on the residual stream.

    With `scales`, one factor per block of the model, dropped block i multiplies the stream by `scales[i]`.
    Caching is off within the context: if block 0 were skipped with a cache, the model would count positions
    from 0 again. On exit everything is restored, including the device hooks of accelerate, which use the
    same attribute. Contexts nest. Raises UnskippableError as `find_blocks` does.
    """
    blocks = find_blocks(model)
    if mask.n_blocks != len(blocks.modules):
        raise UnskippableError(
            f"the mask is for {mask.n_blocks} blocks, but the model has {len(blocks.modules)}."
        )
    with ExitStack() as stack:
        for config in (model.config, getattr(model, "generation_config", None)):
            if config is not None:
                stack.enter_context(_swapped(config, "use_cache", False))
        for index in mask.dropped:
            factor = 1.0 if scales is None else scales[index]
            stack.enter_context(_swapped(blocks.modules[index], "forward", _identity(blocks.extra, factor)))
        yield


@dataclass(frozen=True)
class Entry:
    """The inputs of the blocks in a forward pass: the hidden state (B, T, D), and each block's other arguments."""

    hidden: Tensor
    others: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


class _Reached(Exception):  # noqa: N818 - a signal that the last block was reached, not an error
    pass


def enter(model: nn.Module, **inputs: Any) -> Entry:
    """Run a model up to its blocks and record the arguments that it would pass to each; no block is run.

    The model itself makes the attention masks, position embeddings and so on, separately for each block, so
    hybrid attention is right by construction. They can be reused with any hidden state of the same shape.
    """
    blocks = find_blocks(model)
    hiddens: list[Tensor] = []
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        assert hidden is not None
        hiddens.append(hidden)
        others.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        if len(others) == len(blocks.modules):
            raise _Reached
        return hidden if blocks.extra is None else (hidden, *[None] * blocks.extra)

    with ExitStack() as stack:
        for module in blocks.modules:
            stack.enter_context(_swapped(module, "forward", record))
        with suppress(_Reached):
            model(**inputs, use_cache=False)
    return Entry(hiddens[0], tuple(others))


def apply(blocks: Blocks, index: int, hidden: Tensor, entry: Entry) -> Tensor:
    """Run one block on a hidden state of the entry's shape (B, T, D)."""
    args, kwargs = entry.others[index]
    output = blocks.modules[index](hidden, *args, **kwargs)
    result: Tensor = output if blocks.extra is None else output[0]
    return result


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits (n, V) of hidden states (n, D) that come out of the last block.

    The model itself is run on n sequences of one token each, with its blocks skipped and `hidden` as their
    output. So everything that the model does after its blocks (norms, projections, soft caps) is applied, to
    each position separately.
    """
    blocks = find_blocks(model)
    state = hidden[:, None]  # (n, 1, D)
    output = state if blocks.extra is None else (state, *[None] * blocks.extra)
    filler = 1 if model.config.get_text_config(decoder=True).pad_token_id == 0 else 0  # any token but padding
    ids = torch.full((len(hidden), 1), filler, device=input_device(model))
    with ExitStack() as stack:
        for index, module in enumerate(blocks.modules):
            replacement = _identity(blocks.extra) if index else lambda *_, **__: output
            stack.enter_context(_swapped(module, "forward", replacement))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, 0]


def input_device(model: nn.Module) -> torch.device:
    """The device for token ids: that of the first weight in memory, or else the CPU."""
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def _identity(extra: int | None, factor: float = 1.0) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        if factor != 1.0 and hidden is not None:
            hidden = hidden * factor
        return hidden if extra is None else (hidden, *[None] * extra)

    return forward


@contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute; on exit restore its old value, or delete it if there was none."""
    saved = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if saved is _MISSING else setattr(owner, name, saved)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    hidden = args[0] if args else kwargs.get("hidden_states")
    return hidden if isinstance(hidden, Tensor) else None


def check_config(config: Any) -> None:
    """Raise UnskippableError if the configuration shows that a block cannot be removed alone."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnskippableError(
            "it is an encoder-decoder model: only decoder-only language models can be pruned."
        )
    shared = getattr(config.get_text_config(decoder=True), "num_kv_shared_layers", 0)
    if shared:
        raise UnskippableError(
            f"its last {shared} blocks reuse keys and values of earlier blocks, so no block can be removed alone."
        )


def _probe(model: nn.Module, count: int) -> Blocks:
    """Run four tokens and return the only list of `count` modules that form a chain."""
    lists = {
        path: tuple(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not lists:
        raise UnskippableError(f"no list of {count} blocks found in {type(model).__name__}.")
    traces = {path: _run(model, modules) for path, modules in lists.items()}
    reasons = {path: _why_not(lists[path], trace.calls) for path, trace in traces.items()}
    chains = [path for path, reason in reasons.items() if reason is None]
    if len(chains) != 1:
        why = f"several lists of blocks fit: {chains}" if chains else "; ".join(map(str, reasons.values()))
        raise UnskippableError(f"blocks of {type(model).__name__} cannot be skipped safely: {why}.")
    output = traces[chains[0]].calls[0].output
    extra = len(output) - 1 if isinstance(output, tuple) else None
    return Blocks(chains[0], lists[chains[0]], extra)


def _run(model: nn.Module, modules: tuple[nn.Module, ...]) -> _Trace:
    trace = _Trace()
    handles = [module.register_forward_pre_hook(trace.before, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(trace.after, with_kwargs=True) for module in modules]
    device = input_device(model)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.tensor([[1, 2, 3, 4]], device=device), use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return trace


def _why_not(modules: tuple[nn.Module, ...], calls: list[_Call]) -> str | None:
    """Why these modules are not blocks that can be skipped one by one; None if they are."""
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
