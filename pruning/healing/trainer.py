"""Train weights for a number of steps, so that a stop at any moment changes nothing in the end.

Weights in half precision are trained through float32 copies: gradients are summed in float32, AdamW changes the
copies, and the rounded copies are written back. Each rank takes its share of a step's windows. Dropout is off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.calibration.samples import Row
from pruning.core.errors import InputError, LossError
from pruning.distributed import collectives
from pruning.healing import checkpoint, curve, ranks
from pruning.healing.checkpoint import State
from pruning.healing.curve import Point
from pruning.healing.losses import summed_loss
from pruning.healing.masters import Masters
from pruning.healing.readout_loss import Weights
from pruning.healing.schedule import Schedule
from pruning.healing.settings import Training
from pruning.healing.text import HealingText

Watch = Callable[[Point], None]  # called after each step


@dataclass
class Trainer:
    """Trains `parameters` of `student`, a model in evaluation mode, on a text.

    `teacher` is the dense model, or None; `numbers` are its blocks that the student's blocks correspond to. `log` is
    the file of the curve; None keeps the curve in memory only.
    """

    student: Any
    parameters: Sequence[nn.Parameter]
    text: HealingText
    settings: Training
    losses: Weights
    teacher: Any = None
    numbers: tuple[int, ...] = ()
    log: Path | None = None
    watch: Watch = field(default=lambda _: None)

    def __post_init__(self) -> None:
        if self.settings.windows < collectives.world_size():
            raise InputError(
                f"a step has {self.settings.windows} windows, which {collectives.world_size()} ranks cannot share: "
                "raise heal.batch_tokens, or start fewer ranks."
            )
        for weight in self.student.parameters():
            weight.requires_grad_(False)
        for weight in self.parameters:
            weight.requires_grad_(True)
        self._loop = ranks.accelerator(self.device)
        self._masters = Masters(self.parameters, self.settings)
        self.state = State(self._masters.weights, self._masters.optimizer.state_dict())

    @property
    def device(self) -> torch.device:
        """The device for token ids."""
        from pruning.models.block_probe import input_device

        return input_device(self.student)

    @property
    def stopped(self) -> bool:
        """Whether the held-out loss has not fallen for too long."""
        return 0 < self.settings.patience <= self.state.worse

    @property
    def stopped_early(self) -> bool:
        """Whether training ended for this reason, before its last step."""
        return self.stopped and self.state.step < self.settings.steps

    def resume(self, saved: State) -> None:
        """Continue from a checkpoint."""
        self._masters.load(saved.weights, saved.optimizer)
        saved.weights = self._masters.weights
        self.state = saved

    def run(self, schedule: Schedule, stop: int, folder: Path | None, kept: bool = False) -> None:
        """Train up to step `stop`, with checkpoints in `folder`; `kept` keeps the last one for other budgets.

        Raises LossError if a loss is not finite.
        """
        if self.log is not None:
            collectives.on_first(lambda: curve.write(self.log, self.state.curve))  # type: ignore[arg-type]
        if not self.state.curve:
            self._note({"step": 0, "tokens": 0, "seconds": 0.0})
        every = self.settings.checkpoint_every
        while self.state.step < stop and not self.stopped:
            self._step(schedule)
            if folder is not None and self.state.step % every == 0 and self.state.step < stop:
                self._save(folder)
        if folder is not None and kept:
            self._save(folder, kept=not self.stopped)

    def finish(self) -> None:
        """Give the model the weights with the lowest held-out loss."""
        if not self.stopped and self.state.curve[-1].get("heldout_loss") is None:
            self._judge(self.state.curve[-1])
            if self.log is not None:
                collectives.on_first(lambda: curve.write(self.log, self.state.curve))  # type: ignore[arg-type]
            self.watch(self.state.curve[-1])
        self._masters.write_back(self.state.weights if self.state.best is None else self.state.best)

    def heldout_loss(self) -> float:
        """The cross entropy per predicted token on the held-out windows, in nats."""
        total = 0.0
        with torch.no_grad():
            for ids in self._batches(collectives.share_of(self.text.heldout)):
                total += float(summed_loss(self.student, ids, Weights()))
        return self._sum(total) / (len(self.text.heldout) * (self.settings.length - 1))

    def _step(self, schedule: Schedule) -> None:
        """One step of the optimizer."""
        started, state, size = time.perf_counter(), self.state, self.settings.windows
        rate = self.settings.rate * schedule.factor(state.step)
        loss = self._gradients(self.text.batch(state.step, size))
        if not math.isfinite(loss):
            raise LossError(
                f"the loss of healing is {loss} at step {state.step + 1} of {schedule.steps}: lower heal.lr "
                f"({self.settings.rate:g}), or try model.dtype=float32."
            )
        self._masters.step(rate, self._loop)
        state.step += 1
        tokens = state.step * size * self.settings.length
        state.seconds += time.perf_counter() - started
        seconds = round(state.seconds, 3)
        self._note({"step": state.step, "tokens": tokens, "seconds": seconds, "loss": loss, "lr": rate})

    def _gradients(self, rows: Sequence[Row]) -> float:
        """Put this rank's gradients of a step's mean loss into the float32 copies; returns the whole loss."""
        scale, total = 1.0 / (len(rows) * (self.settings.length - 1)), 0.0
        self._masters.clear()
        for ids in self._batches(collectives.share_of(rows)):
            loss = scale * summed_loss(
                self.student,
                ids,
                self.losses,
                self.teacher,
                self.numbers,
                self.settings.gradient_checkpointing,
            )
            self._loop.backward(loss)
            total += float(loss.detach())
            self._masters.collect()
        return self._sum(total)

    def _batches(self, rows: Sequence[Row]) -> Iterator[Tensor]:
        """Token ids (B, T) of some windows, at most `micro_tokens` at a time."""
        size = max(1, self.settings.micro_tokens // self.settings.length)
        for start in range(0, len(rows), size):
            yield torch.tensor([row.input_ids for row in rows[start : start + size]], device=self.device)

    def _note(self, point: Point) -> None:
        """Add a point to the curve; at every `eval_every`-th step, with the held-out loss."""
        if self.state.step % self.settings.eval_every == 0:
            self._judge(point)
        self.state.curve.append(point)
        if self.log is not None and collectives.is_first():
            curve.append(self.log, point)
        self.watch(point)

    def _judge(self, point: Point) -> None:
        """Measure the held-out loss, and remember the weights if it is the lowest."""
        state, loss = self.state, self.heldout_loss()
        if not math.isfinite(loss):
            raise LossError(f"the held-out loss of healing is {loss} at step {state.step}: lower heal.lr.")
        point["heldout_loss"] = loss
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.worse = loss, state.step, 0
            state.best = state.copy_of()
        else:
            state.worse += 1

    def _save(self, folder: Path, kept: bool = False) -> None:
        self.state.optimizer = self._masters.optimizer.state_dict()
        checkpoint.save(folder, self.state, kept)

    @staticmethod
    def _sum(value: float) -> float:
        return float(collectives.all_sum(np.array([value]))[0])
