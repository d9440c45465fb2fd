"""Train weights for a number of steps, so that a stop at any moment changes nothing in the end.

Weights in half precision are trained through float32 copies: gradients are summed in float32, AdamW changes the
copies, and the rounded copies are written back. Each rank takes its share of a step's windows. Dropout is off.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pruning.calibration.samples import Row
from pruning.core import records
from pruning.core.errors import DamagedError, InputError, LossError, first_line
from pruning.core.records import Point
from pruning.core.storage import file_sha256, naming, sweep, temporary_file
from pruning.engine import collectives
from pruning.engine.head import NORMALISED, Distributions, positions_at_once
from pruning.healing.heal_settings import Training
from pruning.healing.training_text import HealingText
from pruning.models.blocks import apply, enter, find_blocks, head

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
        self._loop = accelerator(self.device)
        self._masters = Masters(self.parameters, self.settings)
        self.state = State(self._masters.weights, self._masters.optimizer.state_dict())

    @property
    def device(self) -> torch.device:
        """The device for token ids."""
        from pruning.models.blocks import input_device

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
            collectives.on_first(lambda: records.write(self.log, self.state.curve))  # type: ignore[arg-type]
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
                collectives.on_first(lambda: records.write(self.log, self.state.curve))  # type: ignore[arg-type]
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
            records.append(self.log, point)
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
        save(folder, self.state, kept)

    @staticmethod
    def _sum(value: float) -> float:
        return float(collectives.all_sum(np.array([value]))[0])


# The state of a training run, and its files.
#
# A file is written atomically, so a kill leaves the last one whole. Its name ends with a part of its SHA-256, so a
# byte that has changed since is found.

NAME = re.compile(r"(step|decay)-(\d{8})-([0-9a-f]{16})\.pt")


@dataclass
class State:
    """How far a training run is: its weights, its optimizer, its curve and its best weights so far.

    `best` are the weights with the lowest held-out loss; None before the first. `worse` counts the held-out losses
    since then. The order of the data and the learning rate are functions of `step`, and training uses
    no random numbers, so this is everything.
    """

    weights: list[Tensor]
    optimizer: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("inf")
    best: list[Tensor] | None = None
    worse: int = 0

    def copy_of(self) -> list[Tensor]:
        """A copy of the weights."""
        return [weight.detach().clone() for weight in self.weights]


def save(folder: Path, state: State, kept: bool = False) -> None:
    """Write a checkpoint, and remove older ones beside it that no other budget needs. The first rank does this.

    A kept one is where the rate of some budget begins to fall.
    """

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        data = {**vars(state), "curve": json.dumps(state.curve)}
        data["weights"] = [weight.detach() for weight in state.weights]
        stem = f"{'decay' if kept else 'step'}-{state.step:08d}"
        with naming(folder / f"{stem}.pt"), temporary_file(folder / f"{stem}.pt") as (stream, temporary):
            _write(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
            path = folder / f"{stem}-{file_sha256(temporary)[:16]}.pt"
            temporary.replace(path)
        for kind, step, older in _files(folder):
            if older != path and (kind == "step" or step == state.step):
                older.unlink(missing_ok=True)

    collectives.on_first(write)


def _write(data: Any, stream: IO[bytes]) -> None:
    """Write data with `torch.save`; if a write fails, raise its error, which torch hides behind one of its own."""
    try:
        torch.save(data, stream)
    except RuntimeError as error:
        if isinstance(cause := error.__context__, OSError):
            raise cause from error
        raise


def load(path: Path) -> State:
    """Read a checkpoint into CPU memory. Raises DamagedError if the file is not the one that was written."""
    try:
        if path.stem.rpartition("-")[2] != file_sha256(path)[:16]:
            raise ValueError("its contents do not have the digest in its name")
        data = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**data, "curve": json.loads(data["curve"])})
    except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedError(
            f"{path} is damaged ({first_line(error)}): remove it, and healing starts from an earlier state."
        ) from error


def latest(folder: Path, most: int) -> Path | None:
    """The checkpoint of the largest step up to `most`; None if there is none. All ranks get the same answer."""

    def find() -> Path | None:
        fitting = [(step, path) for _, step, path in _files(folder) if step <= most]
        return max(fitting)[1] if fitting else None

    return collectives.on_first(find)


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written."""
    return int(path.stem.split("-")[1])


def _files(folder: Path) -> Iterator[tuple[str, int, Path]]:
    for path in sorted(folder.glob("*.pt")):
        if match := NAME.fullmatch(path.name):
            yield match[1], int(match[2]), path


# The losses of healing, computed for some positions at a time so that logits of all positions are never in memory.
#
# For a window of T tokens, the T - 1 predictions are scored. With student logits z and teacher logits y,
#
#     cross entropy  = -log softmax(z)[next token]
#     KL             = t^2 sum_v p_v (log p_v - log q_v),    p = softmax(y / t), q = softmax(z / t)
#     hidden         = mean over kept blocks of |h - g|^2 / |g|^2
#
# where h and g are the states after a block in the student and in the teacher (Hinton et al., arXiv 1503.02531). All
# are sums over positions here; the trainer divides by the number of positions. The first two: `readout_loss.py`.

# The least mean square of a teacher's state. A state is all zeros if a text begins with the padding token, whose
# embedding is zeros in many models.
SMALLEST = 1e-6


def block_states(model: Any, ids: Tensor, recompute: bool = False) -> list[Tensor]:
    """The states (B, T, D) after each block, for token ids (B, T).

    With `recompute` (gradient checkpointing), what is inside of a block is computed again in the backward pass.
    """
    blocks, entry = find_blocks(model), enter(model, input_ids=ids)
    hidden, states = entry.hidden, []
    for index in range(len(blocks.modules)):
        if recompute and torch.is_grad_enabled():
            hidden = checkpoint(apply, blocks, index, hidden, entry, use_reentrant=False)
        else:
            hidden = apply(blocks, index, hidden, entry)
        states.append(hidden)
    return states


def summed_loss(
    student: Any,
    ids: Tensor,
    weights: Weights,
    teacher: Any = None,
    numbers: tuple[int, ...] = (),
    recompute: bool = False,
) -> Tensor:
    """The sum of the losses over all predictions of token ids (B, T), in float32.

    `numbers` are the teacher's blocks that the student's blocks correspond to.
    """
    states = block_states(student, ids, recompute)
    known = None
    if weights.teaches:
        with torch.no_grad():
            known = block_states(teacher, ids)
    wanted = known[-1] if known is not None and weights.kl else None
    total = readout_loss(student, states[-1], ids, weights, teacher, wanted)
    if weights.hidden and known is not None:
        kept = [known[number] for number in numbers]
        total = total + weights.hidden * _state_loss(states, kept)
    return total


def _state_loss(states: list[Tensor], kept: list[Tensor]) -> Tensor:
    """The relative squared errors of states, summed over positions and averaged over blocks."""
    errors = [
        _relative_error(a[:, :-1].float(), b[:, :-1].float()) for a, b in zip(states, kept, strict=True)
    ]
    return torch.stack([error.to(errors[0].device) for error in errors]).mean()


def _relative_error(state: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.square().mean(-1).clamp(min=SMALLEST)
    return ((state - wanted).square().mean(-1) / size).sum()


# Float32 copies of the trained weights: they receive the gradients and the steps of AdamW.
#
# A step is often smaller than the spacing of bfloat16, so a weight in bfloat16 would not move. The copy moves, and
# the model gets the rounded copy.

BETAS = (0.9, 0.95)


class Masters:
    """The copies of some weights of a model, and their optimizer."""

    def __init__(self, parameters: Sequence[nn.Parameter], settings: Training) -> None:
        self.parameters, self.settings = parameters, settings
        self.copies = [nn.Parameter(weight.detach().float().clone()) for weight in parameters]
        matrices = [copy for copy in self.copies if copy.dim() > 1]
        others = [copy for copy in self.copies if copy.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
        )

    @property
    def weights(self) -> list[Tensor]:
        """The copies as tensors; a step changes them in place."""
        return [copy.data for copy in self.copies]

    def load(self, weights: Sequence[Tensor], optimizer: Mapping[str, Any]) -> None:
        """Continue with the weights and the optimizer's state of a checkpoint."""
        for copy, weight in zip(self.copies, weights, strict=True):
            copy.data.copy_(weight)
        self.optimizer.load_state_dict(dict(optimizer))
        self.write_back(self.weights)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for copy in self.copies:
            copy.grad = torch.zeros_like(copy)

    def collect(self) -> None:
        """Add the gradients of the model's weights to those of the copies, and free them."""
        for copy, weight in zip(self.copies, self.parameters, strict=True):
            if weight.grad is not None:
                assert copy.grad is not None
                copy.grad += weight.grad
                weight.grad = None

    def step(self, rate: float, loop: Any) -> None:
        """Sum the gradients over the ranks of an Accelerator, clip them, and change the copies and the model."""
        if loop.num_processes > 1:
            for copy in self.copies:
                copy.grad = loop.reduce(copy.grad, reduction="sum")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loop.clip_grad_norm_(self.copies, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.write_back(self.weights)

    def write_back(self, weights: Sequence[Tensor]) -> None:
        """Give the model these weights, rounded to its precision."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)


# Accelerate's loop on the ranks that the project has joined: backward passes, sums of gradients, clipping.
#
# The ranks are joined by `engine/collectives.py` (torchrun or submitit), and each sees only its own GPUs. Accelerate
# is given this view in its environment variables, because it would otherwise choose a GPU by the local rank.


def accelerator(device: torch.device) -> Any:
    """An Accelerator for a model on a device; gradients are summed over ranks with its method `reduce`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # of an earlier model, perhaps on another device
    threads = torch.get_num_threads()
    with _environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of threads, which is put back
        made = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    torch.set_num_threads(threads)
    return made


@contextmanager
def _environment() -> Iterator[None]:
    """Within this context, the environment describes the joined ranks, each on a machine of its own."""
    size = collectives.world_size()
    wanted = {
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "WORLD_SIZE": str(size),
        "RANK": str(collectives.rank()),
    }
    wanted |= {"MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1")}
    changed = wanted if size > 1 else {}
    names = (*wanted, "MASTER_PORT")
    saved = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


# Cross entropy and KL on next-token distributions, with their gradients, from the states after the last block.
#
# What follows the last block is not trained, so only the gradient of the states is needed. It is computed together
# with the loss, for some positions at a time: the gradient of a position's loss in its student logits z is
#
#     cross entropy  softmax(z) - onehot(next token)
#     KL             t (softmax(z / t) - softmax(y / t)),    y: teacher logits, t: temperature
#
# and the model's own head carries it on to the state. So logits are computed once, those of all positions are never
# in memory, and nothing of them is kept for the backward pass. The same idea as in Liger Kernel (arXiv 2410.10989).


@dataclass(frozen=True)
class Weights:
    """What the losses count. The teacher is only run if `kl` or `hidden` is above 0."""

    ce: float = 1.0
    kl: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0

    @property
    def teaches(self) -> bool:
        """Whether a teacher is needed."""
        return self.kl > 0 or self.hidden > 0


def readout_loss(
    student: Any,
    last: Tensor,
    ids: Tensor,
    weights: Weights,
    teacher: Any = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """The sum of cross entropy and KL over the predictions of token ids (B, T), in float32; a scalar.

    `last` are the student's states (B, T, D) after its last block, and `wanted` the teacher's; without them there is
    no KL.
    """
    hidden, targets = last[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(last.device)
    goals = None if wanted is None else wanted[:, :-1].flatten(0, 1)
    total: Tensor = _Readout.apply(hidden, targets, student, weights, teacher, goals)  # type: ignore[no-untyped-call]
    return total


class _Readout(torch.autograd.Function):
    """The loss of states (n, D). The forward pass computes their gradient as well; the backward pass returns it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        student: Any,
        weights: Weights,
        teacher: Any,
        goals: Tensor | None,
    ) -> Tensor:
        step = positions_at_once(hidden.device.type, _vocabulary(student))
        total, gradients = torch.zeros((), dtype=torch.float64, device=hidden.device), []
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            dense = None if goals is None else head(teacher, goals[part])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                state = hidden[part].detach().requires_grad_(ctx.needs_input_grad[0])
                logits = head(student, state)
            loss, gradient = _part(logits.detach(), dense, targets[part].to(logits.device), weights)
            total += loss.to(total.device)
            if ctx.needs_input_grad[0]:
                gradients.append(torch.autograd.grad(logits, state, gradient)[0])
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total.float()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (ctx.saved_tensors[0] * upstream, None, None, None, None, None)


def _part(logits: Tensor, dense: Tensor | None, targets: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The loss of logits (m, V) and its gradient (m, V), computed for as many positions as fit the cache."""
    piece = max(1, NORMALISED.get(logits.device.type, 1 << 25) // (4 * logits.shape[-1]))
    total, gradients = torch.zeros((), dtype=torch.float64, device=logits.device), torch.empty_like(logits)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    for start in range(0, len(logits), piece):
        part = slice(start, start + piece)
        y = None if dense is None else dense[part].to(logits.device, dtype)
        loss, gradients[part] = _with_gradient(logits[part].to(dtype), y, targets[part], weights)
        total += loss
    return total, gradients


def _with_gradient(z: Tensor, y: Tensor | None, targets: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """The loss of student logits z (m, V), and its gradient (m, V); y are the teacher's logits."""
    student = Distributions(z)
    loss = -weights.ce * student.of(targets).sum()
    gradient = student.probabilities * weights.ce
    gradient[torch.arange(len(z), device=z.device), targets] -= weights.ce
    if y is None:
        return loss, gradient
    heat = weights.temperature
    p, q = Distributions(y / heat), student if heat == 1 else Distributions(z / heat)
    kl = (p.probabilities * (p.whole - q.whole)).sum(dtype=torch.float64)
    gradient.add_(q.probabilities - p.probabilities, alpha=weights.kl * heat)
    return loss + weights.kl * heat**2 * kl, gradient


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)


# The learning rate of each step: warm-up, constant, linear decay (WSD), or warm-up and a cosine.
#
# With WSD (warm-up, stable, decay; arXiv 2404.06395), the rate before the decay does not depend on the budget. So a
# larger budget continues from the state in which a smaller one began to decay.


@dataclass(frozen=True)
class Schedule:
    """A schedule of `steps` steps: the rate rises in the first `warmup` steps and falls in the last `falling` ones.

    `falling` is None for a cosine.
    """

    steps: int
    warmup: int
    falling: int | None

    @property
    def stable(self) -> int:
        """The number of steps that larger budgets have in common with this one."""
        return 0 if self.falling is None else self.steps - self.falling

    def factor(self, step: int) -> float:
        """The rate of a step, counted from 0, as a part of the full rate; in (0, 1]."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        if self.falling is None:
            return rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if step < self.stable:
            return rising
        return rising * (self.steps - step) / (self.falling + 1)


def schedule_of(kind: str, steps: int, warmup: int, decay: float) -> Schedule:
    """The schedule of a kind, `wsd` or `cosine`; `decay` is the share of the steps in which a WSD rate falls."""
    return Schedule(steps, warmup, None if kind == "cosine" else min(steps, math.ceil(decay * steps)))
