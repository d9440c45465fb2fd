"""Forecast how long a cell takes on this machine, and how much memory, from a measurement of a few seconds.

Masks of a search share the beginnings of their passes, so of their block forwards about `SHARED` are left
(`docs/engine.md`). All numbers are rough: they are for a person who decides whether to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import nn

from pruning.calibration.samples import Samples
from pruning.core import scoring
from pruning.core.mask import Mask
from pruning.core.records import FOLDER, DoneResult
from pruning.engine.compensation import Linear
from pruning.engine.dense_pass import HALVES, unit_times
from pruning.engine.devices import devices, free_memory, synchronize
from pruning.engine.memory import Tally
from pruning.healing.heal_settings import LossWeights, Training
from pruning.healing.healed_files import read_record
from pruning.healing.loop import latest_checkpoint, step_of
from pruning.healing.losses import summed_loss
from pruning.healing.rate import known, settled
from pruning.models.blocks import find_blocks, gradients_kept, input_device
from pruning.models.products import native_products
from pruning.objective import Calibrated
from pruning.runs.cell import Prepared
from pruning.runs.loaded_cell import cell_space, forward_of, model_of
from pruning.runs.measurements import check_repair

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward
    from pruning.evaluation.speed import Speed
    from pruning.healing.training_text import HealingText


SHARED = 0.4  # the part of a search's block forwards that is left when masks share their beginnings
RACED = 0.5  # the part of a loss that a race computes on average (benchmarks/racing.json)
MAPS = 0.5  # passes over the samples for each removed unit whose run gets a map, on average
LOADS = 4  # an export takes about as long as loading the model this often: read, write, load again, compare
TRAINED = 20  # bytes of each trained parameter: copy, gradient, two moments, best values (docs/healing.md)


@dataclass(frozen=True)
class Forecast:
    """Seconds by part of the work; bytes of memory that the process needs, and that it can have.

    `single` are the bytes of the float32 copy of the model that settles near ties.
    """

    parts: Mapping[str, float]
    memory: int
    available: int
    single: int = 0

    @property
    def seconds(self) -> float:
        """The seconds of all parts."""
        return sum(self.parts.values())


def forecast(prepared: Prepared, speed: Speed | None, export: bool) -> Forecast:
    """What the rest of a cell takes, without what earlier runs have finished. The model is loaded.

    `speed` says whether the speed is measured too, and `export` whether a checkpoint is written. Raises
    UnskippableError or InputError if the model cannot be divided, searched or repaired as the cell asks for.
    """
    cell, started = prepared.cell, time.perf_counter()
    model = model_of(cell)
    loading = time.perf_counter() - started
    forward, space = forward_of(cell, model), cell_space(cell, model)
    check_repair(prepared, forward, space.unit)
    kept = 1 - (cell.ratio if cell.ratio is not None else (cell.k or 0) / space.n_units)
    used, free = psutil.Process().memory_info().rss, free_memory(model.module)
    losses = Calibrated(cell.objective, forward, prepared.samples)
    rates = measured_rates(losses, space.drop(space.free()[0]), cell.heal)
    done = cell.done()
    tokens, repairs = _tokens(prepared.samples.rows), isinstance(cell.compensation, Linear)
    parts: dict[str, float] = {}
    if done is None:
        journal = scoring.read_trace(cell.folder / scoring.NAME)  # of a cell that was stopped
        left = max(0, cell.evaluations(space) - sum(1 for _ in journal))
        each = rates.loss - rates.blocks + SHARED * rates.blocks
        raced = 1.0 if cell.racing.delta is None else RACED
        parts["search"] = tokens * (rates.first + raced * left * each)
        count = round((1 - kept) * space.n_units)
        parts["repair"] = repairs * MAPS * count * tokens * rates.blocks
    measured = 0 if done is not None else 3 if repairs else 2
    if prepared.text is not None and not _healed(prepared, prepared.text, done):
        parts["healing"] = kept * _healing(prepared, prepared.text, rates)
        measured += 1
    rows = [row for data in prepared.data.values() if isinstance(data, Samples) for row in data.rows]
    parts["evaluation"] = measured * rates.dense * _tokens(rows)
    if speed is not None and (done is None or "speed" not in done["evaluation"]):
        shapes = [(batch, prompt) for batch in speed.batch_sizes for prompt in speed.prompts]
        once = sum(b * p * rates.dense + b * speed.new_tokens * rates.generated for b, p in shapes)
        parts["speed"] = 2 * (speed.repeats + speed.warmup) * once
    if export:
        parts["export"] = LOADS * loading
    module, single = model.module, 0
    if done is None and cell.near_ties.most and module.dtype in HALVES:
        single = sum(4 * weight.numel() for weight in module.parameters())
    # The most bytes besides the loaded model: of the search's states, of the training, or of the export.
    width = int(module.config.get_text_config(decoder=True).hidden_size)
    states = single + model.info.n_blocks * tokens * width * int(module.dtype.itemsize)
    weights = sum(weight.numel() * weight.itemsize for weight in module.parameters())
    extra = max(states, 2 * weights)
    if cell.heal.trains:
        extra = max(extra, int(kept * _training_memory(module, cell.heal, rates)))
    left_over = {name: seconds for name, seconds in parts.items() if seconds > 0}
    return Forecast(left_over, used + extra, used + free, single)


def _healed(prepared: Prepared, text: HealingText, done: DoneResult | None) -> bool:
    """Whether the cell's folder has the finished healing that is asked for, and not only another one."""
    cell = prepared.cell
    heal = settled(cell.heal, known(cell.heal, text, cell.folder / FOLDER))
    if heal is None:
        return False
    place = FOLDER
    if cell.heal.candidates > 1:
        if done is None or "selection" not in done.get("heal", {}):
            return False  # which candidate is healed is not known yet
        place = str(Path(done["heal"]["folder"]).parent)
    return read_record(cell.folder / place / heal.key(text.sha256)) is not None


def _healing(prepared: Prepared, text: HealingText, rates: Rates) -> float:
    """Seconds, for the whole model, of the steps that no checkpoint has, and of the losses on held-out windows."""
    asked: Training = prepared.cell.heal
    folder = prepared.cell.folder / FOLDER
    tried = known(asked, text, folder)
    heal = settled(asked, tried)
    # Trials that are still to come: all rates, of which the best one's steps are those of the healing itself.
    trials = 0 if heal is not None else len(asked.rates) - 1 - len(tried)
    heal = asked if heal is None else heal
    saved = None if heal.lr is None else latest_checkpoint(heal, text, folder)
    left = heal.steps if saved is None else max(0, heal.steps - step_of(saved))
    judged = heal.heldout * (1 + left // heal.eval_every + 2 * trials)
    left += max(0, trials) * (heal.trial_tokens // (heal.windows * heal.length))
    return heal.length * (left * heal.windows * rates.train + judged * rates.dense)


def _training_memory(module: nn.Module, heal: Any, rates: Rates) -> float:
    """The bytes of a training run of the whole model: its copy, gradients, the optimizer, and a pass."""
    blocks = find_blocks(module).modules
    inside = [weight for block in blocks for weight in block.parameters()]
    size, trained = sum(w.numel() * w.itemsize for w in inside), sum(w.numel() for w in inside)
    gradients = size
    if heal.adapter:
        layers = [one for block in blocks for one in block.modules() if isinstance(one, nn.Linear)]
        trained = sum(heal.rank * (one.in_features + one.out_features) for one in layers)
        gradients = 0
    return float(size + TRAINED * trained + gradients + heal.micro_tokens * rates.train_bytes)


# Measure how fast this machine scores, trains and runs a model, on a few tokens, to forecast what a cell takes.

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
    alone, count = samples.part(0, 1), 1
    if _seconds(lambda: _score(forward, alone.rows)) <= QUICK:  # as many as one batch has
        count = max(1, min(samples.count, forward.batch_tokens // _tokens(alone.rows)))
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
    weights = LossWeights(kl=float(heal.losses.kl > 0))
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
