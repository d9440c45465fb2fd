"""Measure how fast this machine scores, trains and runs a model, on a few tokens, to forecast what a cell takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pruning.core.mask import Mask
from pruning.engine.device import devices, synchronize
from pruning.engine.memory_probe import Tally
from pruning.engine.unit_times import unit_times
from pruning.healing.losses import summed_loss
from pruning.healing.readout_loss import Weights
from pruning.models.block_probe import find_blocks, gradients_kept, input_device
from pruning.models.float32_products import native_products
from pruning.objective import Calibrated

if TYPE_CHECKING:
    from pruning.calibration.samples import Row, Samples
    from pruning.engine.forward import Forward
    from pruning.healing.settings import Training

QUICK = 2.0  # seconds: if one sample takes less, more are timed, because a token is cheaper in a large batch


@dataclass(frozen=True)
class Rates:
    """Seconds for each token: of the first loss of an objective, of each further loss, and of blocks alone in it.

    `dense` is for a token that an evaluation scores, `generated` for a new token, and `train` for a token that is
    trained on (0 if nothing is trained). `train_bytes` is the memory of a training pass for each of its tokens.
    """

    first: float
    loss: float
    blocks: float
    dense: float
    generated: float
    train: float
    train_bytes: float


def measured_rates(losses: Calibrated, mask: Mask, heal: Any) -> Rates:
    """The rates of a cell. `mask` removes an early unit, so that its loss shares no beginning with the dense model.

    `heal` are the settings of a healing, or settings that do not train.
    """
    forward, samples = losses.forward, losses.samples
    count = _count(samples, forward)
    part, some = losses.part(0, count), samples.part(0, count)
    tokens = _tokens(some.rows)
    first = _seconds(lambda: list(part([Mask(forward.n_blocks, unit=mask.unit)]))) / tokens
    loss = _seconds(lambda: list(part([mask]))) / tokens
    length = len(some.rows[0].input_ids)
    warm = forward.fresh()
    _score(warm, some.rows)  # the first pass also measures the memory that it needs
    dense = _seconds(lambda: _score(warm, some.rows, mask)) / tokens
    blocks = sum(unit_times(forward.model, "block", (max(1, tokens // length), length), 1)) / tokens
    generated = sum(unit_times(forward.model, "block", (1, 1), 3))
    train, used = _training(forward.model.module, some.rows, heal) if heal.trains else (0.0, 0.0)
    return Rates(first, loss, min(blocks, loss), dense, generated, train, used)


def _count(samples: Samples, forward: Forward) -> int:
    """How many samples are timed: one if it takes long, else as many as one batch has."""
    alone = samples.part(0, 1)
    if _seconds(lambda: _score(forward, alone.rows)) > QUICK:
        return 1
    return max(1, min(samples.count, forward.batch_tokens // _tokens(alone.rows)))


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _score(forward: Forward, rows: Sequence[Row], mask: Mask | None = None) -> None:
    for _ in forward.loglikelihoods(rows, [Mask(forward.n_blocks) if mask is None else mask]):
        pass


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _training(module: Any, rows: Sequence[Row], heal: Training) -> tuple[float, float]:
    """Seconds and bytes for each token of a training pass, forward and backward, of the dense model."""
    device, tally = input_device(module), Tally()
    weights = Weights(kl=float(getattr(heal, "kl", 0.0) > 0))
    length = min(len(row.input_ids) for row in rows)

    def run(count: int) -> None:
        ids = torch.tensor([row.input_ids[:length] for row in rows[:count]], device=device)
        teacher = module if weights.teaches else None
        loss = summed_loss(module, ids, weights, teacher, (), heal.gradient_checkpointing)
        torch.autograd.backward(loss)
        for parameter in module.parameters():
            parameter.grad = None
        synchronize(devices(module))

    with _trainable(module, heal.adapter), torch.enable_grad():
        with tally, native_products(module):  # the float32 copies of weights do not grow with the tokens
            run(1)
        count = max(1, min(len(rows), heal.micro_tokens // length))
        seconds = _seconds(lambda: run(count))
    return seconds / (count * length), tally.most / length


@contextmanager
def _trainable(module: Any, adapter: bool) -> Iterator[None]:
    """Within this context, gradients are computed: of all blocks or, for adapters, only back to the first block."""
    blocks = find_blocks(module).modules
    trained = {id(weight) for block in (blocks[:1] if adapter else blocks) for weight in block.parameters()}
    with gradients_kept(module.parameters()):
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in trained and parameter.is_floating_point())
        yield
