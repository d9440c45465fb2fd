"""Passes through the dense model: the hidden states at every unit, their gradients, and the time of each unit."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.engine import collectives
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.devices import devices, free_memory, offloaded, synchronize
from pruning.engine.forward import Forward
from pruning.engine.prefix_tree import model_entry
from pruning.models.blocks import BlockInputs, enter, find_blocks, gradients_kept, head, input_device
from pruning.models.placement import LanguageModel
from pruning.models.products import Float32Linear
from pruning.models.sublayers import Chain

if TYPE_CHECKING:
    from pruning.calibration.samples import Row


# A backward step costs as much as 3 block forwards: one to run the block again, about two for its gradient.
BACKWARD = 3
POSITIONS = 128  # positions projected to the vocabulary at a time; few, to keep the autograd graph small


@dataclass(frozen=True)
class RowInBatch:
    """A row in a batch: its number among all rows, its line's index in the batch, its length in tokens."""

    row: int
    index: int
    length: int


@dataclass(frozen=True)
class BackwardStep:
    """The backward step through one unit.

    It has the states (B, T, D) before and after the unit, the gradient with respect to the state after the unit,
    and the gradients with respect to the unit's weights.
    """

    index: int
    before: Tensor
    after: Tensor
    gradient: Tensor
    weights: tuple[tuple[Tensor, Tensor], ...]  # weight, gradient


def states(
    forward: Forward,
    rows: Sequence[Row],
    unit: str = "block",
    dropped: Collection[int] = (),
    stop: int | None = None,
) -> Iterator[tuple[list[RowInBatch], list[Tensor]]]:
    """For each batch of this rank, yield its lines and N + 1 hidden states of shape (B, T, D), all on one device.

    The states are those before each of the N units and the one after the last unit. Units in `dropped` are
    skipped. If `stop` is given, only the states before units 0 to `stop` are computed.
    """
    for batch, share in _batches(rows, forward.memory_budget.batch_tokens):
        with torch.inference_mode(), _timed(forward):
            _, _, hidden = _run_forward(forward, batch, share, unit, dropped, stop)
            hidden = [state.to(hidden[0].device) for state in hidden]
        yield _lines(batch, rows), hidden


def backward(
    forward: Forward, rows: Sequence[Row], batch_tokens: int, weights: bool = False, unit: str = "block"
) -> Iterator[tuple[list[RowInBatch], Iterator[BackwardStep]]]:
    """For each batch of this rank, yield its lines and the backward steps from the last unit to the first.

    The steps give the gradients of the rows' summed log-likelihood with respect to the states and, if `weights` is
    true, the weights. The states of all units are in memory together, but the autograd graph and the weight gradients
    of only one unit at a time.

    Raises InputError if `weights` is true and some weights are not in memory.
    """
    if weights and offloaded(forward.model.module):
        raise InputError(
            "gradients of weights need all weights in memory, but some are offloaded: use a larger machine, a "
            "smaller model.dtype, or an objective without such gradients."
        )
    for batch, share in _batches(rows, batch_tokens):
        yield _lines(batch, rows), _run_backward(forward, batch, share, weights, unit)


def magnitudes(forward: Forward, rows: Sequence[Row], unit: str = "block") -> tuple[float, ...]:
    """The factor s_i of each unit (defined in `compensation.py`), measured on `rows` in one dense pass."""
    # The ratios are kept per row, so that sums do not depend on the number of ranks.
    ratios = np.zeros((len(rows), forward.n_units(unit)))
    for lines, hidden in states(forward, rows, unit):
        sizes = [state[line.index, : line.length].double().abs().mean() for line in lines for state in hidden]
        of_lines = torch.stack(sizes).view(len(lines), -1).cpu().numpy()  # one copy for each batch
        ratios[[line.row for line in lines]] = of_lines[:, 1:] / of_lines[:, :-1]
    return tuple(collectives.all_sum(ratios).mean(0).tolist())


def gate_gradients(forward: Forward, rows: Sequence[Row], unit: str = "block") -> np.ndarray[Any, Any]:
    """Derivatives, of shape (rows, N), of each row's log-likelihood with respect to each unit's gate, in float64.

    With a gate a, unit i adds a * (F(h) - h) to h. So the derivative at a = 1 is <g, F(h) - h>, where g is
    the gradient with respect to the state after unit i. See `pruning.algo.Gates`.
    """
    gradients = np.zeros((len(rows), forward.n_units(unit)))
    for lines, steps in backward(forward, rows, forward.memory_budget.batch_tokens, unit=unit):
        found = []  # on the device until the last step: one copy for each batch
        for step in steps:
            added = (step.after.double() - step.before.double()) * step.gradient.double()
            found.append(added.sum((1, 2)).to(forward.model.device))
        sums = torch.stack(found[::-1], dim=1).cpu().numpy()  # from the first unit to the last
        gradients[[line.row for line in lines]] = sums[[line.index for line in lines]]
    return collectives.all_sum(gradients)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[tuple[Batch, float]]:
    """Yield this rank's batches, with one line per row, and each batch's share of all tokens."""
    batches = make_batches(single(rows), batch_tokens)
    tokens = sum(batch.ids.numel() for batch in batches)
    for batch in collectives.share_of(batches):
        yield batch, batch.ids.numel() / tokens


def _lines(batch: Batch, rows: Sequence[Row]) -> list[RowInBatch]:
    """For each row of a batch with one row per line: its number, line and length."""
    width = batch.ids.shape[1]
    lines = dict(zip(batch.rows.tolist(), (batch.indices // width).tolist(), strict=True))
    return [RowInBatch(row, line, len(rows[row].input_ids)) for row, line in lines.items()]


def _run_forward(
    forward: Forward,
    batch: Batch,
    share: float,
    unit: str,
    dropped: Collection[int] = (),
    stop: int | None = None,
) -> tuple[Chain, BlockInputs, list[Tensor]]:
    chain = forward.model.chain(unit)
    entry = model_entry(forward.model, batch)
    hidden = [entry.hidden]
    units = range(len(chain))[:stop]
    for index in units:
        hidden.append(hidden[-1] if index in dropped else chain.run(index, hidden[-1], entry))
    run: float = forward.n_blocks
    if dropped or stop is not None:
        shares = chain.block_shares()
        run = sum(shares[index] for index in units if index not in dropped)
    forward.cost.block_forwards += run * share
    forward.cost.block_tokens += round(run * batch.ids.numel())
    return chain, entry, hidden


def _run_backward(
    forward: Forward, batch: Batch, share: float, weights: bool, unit: str
) -> Iterator[BackwardStep]:
    with torch.no_grad(), _timed(forward):
        chain, entry, hidden = _run_forward(forward, batch, share, unit)
        shares = chain.block_shares()
        gradient = _output_gradient(forward, batch, hidden[-1])
    for index in reversed(range(len(chain))):
        chosen = [weight for weight in chain.weights(index) if weights and weight.is_floating_point()]
        with gradients_kept(chosen), torch.enable_grad(), _timed(forward):
            for weight in chosen:  # including weights that the caller has frozen
                weight.requires_grad_(True)
            before = hidden.pop(index).detach().requires_grad_()
            after = chain.run(index, before, entry)
            grads = torch.autograd.grad(after, [before, *chosen], gradient, allow_unused=True)
        forward.cost.block_forwards += BACKWARD * share * shares[index]
        pairs = ((w, g) for w, g in zip(chosen, grads[1:], strict=True) if g is not None)
        yield BackwardStep(index, before.detach().to(after.device), after.detach(), gradient, tuple(pairs))
        gradient = grads[0]


def _output_gradient(forward: Forward, batch: Batch, hidden: Tensor) -> Tensor:
    """The gradient (B, T, D) of the sum of log-likelihoods with respect to the state after the last unit."""
    flat, indices = hidden.flatten(0, 1), batch.indices.to(hidden.device)
    targets, gradient = batch.targets.to(hidden.device), torch.zeros_like(flat)
    wide = torch.promote_types(flat.dtype, torch.float32)
    for start in range(0, len(indices), POSITIONS):
        chosen = indices[start : start + POSITIONS]
        with torch.enable_grad():
            states = flat[chosen].detach().requires_grad_()
            logs = torch.log_softmax(head(forward.model.module, states), -1, dtype=wide)
            value = logs.gather(-1, targets[start : start + POSITIONS, None].to(logs.device)).sum()
            (slopes,) = torch.autograd.grad(value, states)
        gradient.index_add_(0, chosen, slopes)
    return gradient.view_as(hidden)


@contextmanager
def _timed(forward: Forward) -> Iterator[None]:
    started = time.perf_counter()
    yield
    forward.cost.forward_seconds += time.perf_counter() - started


# Forward passes in float32 with a half-precision model's weights.

HALVES = (torch.bfloat16, torch.float16)


class _WideLinear(nn.Linear):
    """A linear layer that computes in float32: it converts its half-precision weight each time it is used."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return cast(Tensor, self._parameters["weight"]).float()


def in_float32(forward: Forward) -> Forward | None:
    """Forward passes in float32 with the weights of a half-precision model; they add to the same `cost`.

    Only the rounding of products and sums differs. The passes share the weights of linear layers with the model, and
    copy all other weights; `forward` keeps them and their states. Returns None if the model is not in half precision
    or not on one device, or if a rank has no room for `float32_bytes`.
    """
    model = forward.model
    if forward.single is not None or model.module.dtype not in HALVES:
        return forward.single
    copies = collectives.world_size() if model.device.type == "cpu" else 1  # one per rank of a machine
    on_one = not offloaded(model.module) and len(devices(model.module)) == 1
    free = -collectives.all_max(-free_memory(model.module) if on_one else 0.0)  # the minimum over all ranks
    if free <= copies * float32_bytes(model.module):
        return None
    memo = {id(weight): weight for weight in model.module.parameters()}  # not copied
    module, find_blocks.known[module] = copy.deepcopy((model.module, find_blocks(model.module)), memo)
    copied = cache(lambda weight: nn.Parameter(weight.float(), requires_grad=False))
    embedded = module.get_input_embeddings().weight  # always copied, since a token uses only one row
    for part in module.modules():
        for name, weight in [*part.named_parameters(recurse=False)]:
            if type(part) in (nn.Linear, Float32Linear) and name == "weight" and weight is not embedded:
                part.__class__ = _WideLinear
            elif weight.dtype in HALVES:
                setattr(part, name, copied(weight))
    widened = LanguageModel(module, replace(model.info, dtype="float32"))
    forward.single = Forward(widened, forward.batch_tokens, forward.scales, forward.cost)
    return forward.single


def float32_bytes(module: nn.Module) -> int:
    """The bytes of the weights that `in_float32` copies, and of the largest weight, to convert one at a time."""
    sizes = [weight.numel() for weight in module.parameters()]
    linear = (one for one in module.modules() if type(one) is nn.Linear or type(one) is Float32Linear)
    return 4 * (sum(sizes) - sum(one.weight.numel() for one in linear) + max(sizes))


@torch.inference_mode()
def unit_times(model: LanguageModel, unit: str, shape: tuple[int, int], repeats: int) -> list[float]:
    """Each unit's median time on this device in seconds, for random tokens of `shape` (sequences, tokens).

    Each repeat times all units in turn, so that a slowdown of the machine affects all of them. A budget of latency
    uses these times as the units' costs. Source: Puzzle (arXiv 2411.19146) measures each sub-block once on the target
    hardware, in the target scenario, and estimates a model's time as the sum of these times.
    """
    chain = model.chain(unit)
    vocabulary = int(model.module.config.get_text_config(decoder=True).vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, shape, generator=generator).to(input_device(model.module))
    entry, used = enter(model.module, input_ids=ids), devices(model.module)
    taken: list[list[float]] = [[] for _ in range(len(chain))]
    for turn in range(repeats + 1):
        hidden = entry.hidden
        for index, seconds in enumerate(taken):
            synchronize(used)
            started = time.perf_counter()
            hidden = chain.run(index, hidden, entry)
            synchronize(used)
            if turn:  # the first turn only warms up
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]
