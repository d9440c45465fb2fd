"""Passes through the whole model that objectives learn from: hidden states at every block, and gradients there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pruning.core.errors import InputError
from pruning.distributed import collectives
from pruning.engine.batching import Batch, make_batches, single
from pruning.engine.prefix_tree import model_entry
from pruning.models.blocks import Blocks, Entry, apply, find_blocks, head

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward

BACKWARD = 3  # a backward step in block forwards: the block once more, and about twice that for its gradient
POSITIONS = 128  # that are projected to the vocabulary at a time, with a graph


@dataclass(frozen=True)
class RowInBatch:
    """One row in a pass: its number among the rows, its place in the batch, its length in tokens."""

    row: int
    place: int
    length: int


@dataclass(frozen=True)
class Step:
    """Block `index` on the way back: states (B, T, D) before and behind it, the gradient behind it, those of its
    weights.
    """

    index: int
    before: Tensor
    behind: Tensor
    gradient: Tensor
    weights: tuple[tuple[Tensor, Tensor], ...]  # weight, gradient


def states(forward: Forward, rows: Sequence[Row]) -> Iterator[tuple[list[RowInBatch], list[Tensor]]]:
    """For each batch of rows, of this rank: its lines, and the N + 1 states (B, T, D) before each block and behind
    the last, all on one device.
    """
    for batch, share in _batches(rows, forward.workload.batch_tokens):
        with torch.inference_mode(), _timed(forward):
            _, _, found = _forth(forward, batch, share)
            found = [state.to(found[0].device) for state in found]
        yield _lines(batch, rows), found


def backward(
    forward: Forward, rows: Sequence[Row], batch_tokens: int, weights: bool = False
) -> Iterator[tuple[list[RowInBatch], Iterator[Step]]]:
    """For each batch, of this rank: its lines, and the steps back from the last block to the first.

    What is differentiated is the sum of the rows' log-likelihoods. One block's graph is held at a time, and one
    block's gradients of its weights, where `weights` asks for them: memory is that of the states and of one block.
    Raises InputError where gradients are asked for of weights that are not in memory.
    """
    if weights and any(p.device.type == "meta" for p in forward.model.module.parameters()):
        raise InputError(
            "gradients of weights need them in memory, and some are offloaded: use a larger machine, a smaller "
            "model.dtype, or an objective without such gradients."
        )
    for batch, share in _batches(rows, batch_tokens):
        yield _lines(batch, rows), _back(forward, batch, share, weights)


def gate_gradients(forward: Forward, rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    """d(log-likelihood of a row) / d(gate of a block), (rows, N), in float64; see `pruning.algo.Gates`.

    With a gate a, block i adds a * (F(h) - h) to h, so the derivative at a = 1 is <gradient behind i, F(h) - h>.
    """
    found = np.zeros((len(rows), forward.n_blocks))
    for lines, steps in backward(forward, rows, forward.workload.batch_tokens):
        for step in steps:
            added = (step.behind.double() - step.before.double()) * step.gradient.double()
            sums = added.sum((1, 2)).cpu().numpy()
            for line in lines:
                found[line.row, step.index] = sums[line.place]
    return collectives.all_sum(found)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[tuple[Batch, float]]:
    """This rank's batches, a line a row, each with its part of all tokens."""
    batches = make_batches(single(rows), batch_tokens)
    tokens = sum(batch.ids.numel() for batch in batches)
    for batch in collectives.share_of(batches):
        yield batch, batch.ids.numel() / tokens


def _forth(forward: Forward, batch: Batch, share: float) -> tuple[Blocks, Entry, list[Tensor]]:
    blocks = find_blocks(forward.model.module)
    entry = model_entry(forward.model, batch, 1, {})
    found = [entry.hidden]
    for index in range(len(blocks.modules)):
        found.append(apply(blocks, index, found[-1], entry))
    forward.cost.block_forwards += len(blocks.modules) * share
    forward.cost.block_tokens += len(blocks.modules) * batch.ids.numel()
    return blocks, entry, found


def _back(forward: Forward, batch: Batch, share: float, weights: bool) -> Iterator[Step]:
    with torch.no_grad(), _timed(forward):
        blocks, entry, found = _forth(forward, batch, share)
        gradient = _at_the_end(forward, batch, found[-1])
    for index in reversed(range(len(blocks.modules))):
        chosen = [p for p in blocks.modules[index].parameters() if weights and p.requires_grad]
        with torch.enable_grad(), _timed(forward):
            before = found.pop(index).detach().requires_grad_()
            behind = apply(blocks, index, before, entry)
            grads = torch.autograd.grad(behind, [before, *chosen], gradient, allow_unused=True)
        forward.cost.block_forwards += BACKWARD * share
        pairs = ((w, g) for w, g in zip(chosen, grads[1:], strict=True) if g is not None)
        yield Step(index, before.detach().to(behind.device), behind.detach(), gradient, tuple(pairs))
        gradient = grads[0]


def _at_the_end(forward: Forward, batch: Batch, hidden: Tensor) -> Tensor:
    """The gradient (B, T, D) of the sum of log-likelihoods with respect to the state behind the last block."""
    flat, places = hidden.flatten(0, 1), batch.places.to(hidden.device)
    targets, gradient = batch.targets.to(hidden.device), torch.zeros_like(flat)
    for start in range(0, len(places), POSITIONS):
        chosen = places[start : start + POSITIONS]
        with torch.enable_grad():
            states = flat[chosen].detach().requires_grad_()
            logs = torch.log_softmax(head(forward.model.module, states).to(_wide(flat)), -1)
            value = logs.gather(-1, targets[start : start + POSITIONS, None].to(logs.device)).sum()
            (found,) = torch.autograd.grad(value, states)
        gradient.index_add_(0, chosen, found)
    return gradient.view_as(hidden)


def _wide(states: Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _lines(batch: Batch, rows: Sequence[Row]) -> list[RowInBatch]:
    """The lines of a batch that holds a row a line."""
    width = batch.ids.shape[1]
    places = dict(zip(batch.rows.tolist(), (batch.places // width).tolist(), strict=True))
    return [RowInBatch(row, place, len(rows[row].input_ids)) for row, place in places.items()]


@contextmanager
def _timed(forward: Forward) -> Iterator[None]:
    started = time.perf_counter()
    yield
    forward.cost.forward_seconds += time.perf_counter() - started
