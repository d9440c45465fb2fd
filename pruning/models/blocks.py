"""Run a model up to its blocks, its blocks one by one, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.core.errors import UnskippableError
from pruning.core.mask import Mask
from pruning.models.architecture import check_config


@dataclass(frozen=True)
class BlockInputs:
    """The inputs of blocks in a forward pass: the first hidden state (B, T, D), and each block's other arguments."""

    hidden: Tensor
    others: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


class _Reached(Exception):  # noqa: N818 - a signal that the last block was reached, not an error
    pass


def enter(model: nn.Module, **inputs: Any) -> BlockInputs:
    """Run a model up to its blocks and record the arguments that it would pass to each block; no block is run.

    The model itself makes the attention masks, position embeddings and so on, separately for each block, so
    blocks with different kinds of attention get the right masks. All these arguments can be reused with any
    hidden state of the same shape.
    """
    blocks = find_blocks(model)
    hiddens: list[Tensor] = []
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        hiddens.append(hidden)
        others.append((args[1:], {k: v for k, v in kwargs.items() if k != "hidden_states"}))
        if len(others) == len(blocks.modules):
            raise _Reached
        return hidden if blocks.extra is None else (hidden, *[None] * blocks.extra)

    with ExitStack() as stack:
        for module in blocks.modules:
            stack.enter_context(swapped(module, "forward", record))
        with suppress(_Reached):
            model(**inputs, use_cache=False)
    return BlockInputs(hiddens[0], tuple(others))


def apply(blocks: Blocks, index: int, hidden: Tensor, entry: BlockInputs) -> Tensor:
    """Run block `index` on a hidden state (B, T, D) of the shape for which `entry` was made."""
    args, kwargs = entry.others[index]
    output = blocks.modules[index](hidden, *args, **kwargs)
    result: Tensor = output if blocks.extra is None else output[0]
    return result


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits (n, V) of hidden states (n, D) that come out of the last block.

    The model itself is run on n sequences of one token each, with its blocks skipped and `hidden` as their
    output. This applies everything that the model does after its blocks (norms, projections, soft caps) to each
    position separately.
    """
    blocks = find_blocks(model)
    state = hidden[:, None]  # (n, 1, D)
    output = state if blocks.extra is None else (state, *[None] * blocks.extra)
    # Any token but padding. Some configurations, such as RWKV's, have no pad token.
    filler = 1 if getattr(model.config.get_text_config(decoder=True), "pad_token_id", None) == 0 else 0
    ids = torch.full((len(hidden), 1), filler, device=input_device(model))
    with ExitStack() as stack:
        for index, module in enumerate(blocks.modules):
            replacement = identity(blocks.extra) if index else lambda *_, **__: output
            stack.enter_context(swapped(module, "forward", replacement))
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[:, 0]


def identity(extra: int | None, factor: float = 1.0) -> Callable[..., Any]:
    """The method of a block that returns its input, multiplied by a factor; `extra` is as in `Blocks`."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_state(args, kwargs)
        if factor != 1.0 and hidden is not None:
            hidden = hidden * factor
        return hidden if extra is None else (hidden, *[None] * extra)

    return forward


# Check that a model is causal: a token must not change the logits of earlier tokens.
#
# A masked language model such as BERT also returns logits and a finite "perplexity". Each of its predictions has
# seen the token that it predicts, so these numbers mean nothing.

IDS = ((1, 2, 3, 4),)
CHANGED = ((1, 2, 3, 1),)  # another last token
# Only for models whose gradient cannot be computed: a change of the earlier logits, relative to the largest logit,
# that can still be rounding. A trained bidirectional model changes its logits by tens of percent.
ROUNDING = 0.05


def check_causal(model: nn.Module, logits: Tensor, device: torch.device) -> None:
    """Raise UnskippableError unless the last token leaves the logits of earlier tokens unchanged.

    `logits` (1, T, V) are those of IDS. One more forward pass is run. Its earlier logits are bit for bit the same in
    a causal model without experts, whatever the precision: the shapes are the same, and masked positions have the
    weight 0. Only experts round differently, since the tokens are grouped differently. If the logits differ, a
    gradient decides: in a causal model, the gradient of earlier logits with respect to a later token is exactly 0.
    """
    with torch.no_grad():
        other = logits_of(model, torch.tensor(CHANGED, device=device))
    before, after = logits[:, :-1].nan_to_num(), other[:, :-1].nan_to_num()
    if torch.equal(before, after) or not _depends(model, device, before, after):
        return
    raise UnskippableError(
        f"{type(model).__name__} is not a causal language model: another last token changes the logits of the tokens "
        "before it, so it has no perplexity. Give a model that predicts the next token."
    )


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits (B, T, V) of token ids (B, T), without a cache."""
    output: Any = model(input_ids=ids, use_cache=False)
    logits: Tensor = getattr(output, "logits", output)
    return logits


def _depends(model: nn.Module, device: torch.device, before: Tensor, after: Tensor) -> bool:
    """Whether earlier logits depend on the last token, by the gradient; without one, by the size of the change."""
    # A gradient would keep all offloaded weights in memory.
    if any(p.device.type == "meta" for p in model.parameters()):
        return _large(before, after)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _leaf(model) as embedded:
            logits = logits_of(model, torch.tensor(IDS, device=device))
            earlier = logits[:, :-1].float().square().sum()
            gradients = torch.autograd.grad(earlier, embedded, allow_unused=True)
    except (RuntimeError, NotImplementedError):  # a kernel without a backward pass
        return _large(before, after)
    return any(bool(one[:, -1].nan_to_num().any()) for one in gradients if one is not None)


def _large(before: Tensor, after: Tensor) -> bool:
    return bool((after - before).abs().max() > ROUNDING * before.abs().max())


@contextmanager
def _leaf(model: Any) -> Iterator[list[Tensor]]:
    """Within this context, the embeddings (B, T, D) of a forward pass are a leaf of the graph, put into the list."""
    embedded: list[Tensor] = []

    def detach(_module: Any, _args: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(detach)
    try:
        yield embedded
    finally:
        handle.remove()


# Find the blocks of a model by its structure, and refuse a model whose blocks cannot be removed one by one.
#
# The blocks are found by running the model on four tokens, and once more on other tokens to check that the model is
# causal. Exactly one list of modules must form a chain: the forward
# pass calls every module once, in order, on the output of the previous module. Names of models and modules are not
# used.


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


# Multiply the hidden state by the factors of removed units, in a model that no longer has these units.
#
# A compensation gives each removed unit a factor. The engine applies it in the place of the unit. A model from which
# the units are gone applies it before or after the blocks that are left, through hooks.


def add_scales(blocks: Sequence[nn.Module], mask: Mask, scales: Sequence[float]) -> list[RemovableHandle]:
    """Make the kept blocks multiply the hidden state by the factors of removed units; returns the hooks' handles.

    `blocks` are the blocks that a mask keeps, in order; `scales` has one factor per unit of the dense model.
    """
    numbers = [index for index in range(mask.n_blocks) if index not in mask.gone]
    before, after = dict.fromkeys(range(len(blocks) + 1), 1.0), dict.fromkeys(range(len(blocks)), 1.0)
    for unit in mask.dropped:
        block = unit if mask.unit == "block" else unit // 2
        place = sum(number < block for number in numbers)  # the first kept block that is not before this one
        if block in numbers and unit % 2:  # only the MLP of a kept block is removed
            after[place] *= scales[unit]
        else:
            before[place] *= scales[unit]
    after[len(blocks) - 1] *= before.pop(len(blocks))
    handles = [
        blocks[place].register_forward_pre_hook(_scaled_input(factor), with_kwargs=True)
        for place, factor in before.items()
        if factor != 1.0
    ]
    return handles + [
        blocks[place].register_forward_hook(_scaled_output(factor))
        for place, factor in after.items()
        if factor != 1.0
    ]


def _scaled_input(factor: float) -> Any:
    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = hidden_state(args, kwargs)
        assert hidden is not None
        if args:
            return (hidden * factor, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden * factor}

    return hook


def _scaled_output(factor: float) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] * factor, *output[1:]) if isinstance(output, tuple) else output * factor

    return hook


# Replace an attribute for the time of a context.

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
