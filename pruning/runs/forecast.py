"""Forecast how long a cell takes on this machine and how much memory, and decide how a guided cell is trained.

Masks of a search share the beginnings of their passes, so of their block forwards about `SHARED` are left
(`docs/engine.md`). All numbers are rough: they are for a person who decides whether to wait.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from torch import nn

from pruning.calibration.samples import Samples
from pruning.core import scoring
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import CLASS, FOLDER, OPTION, DoneResult
from pruning.core.units import bytes_text, duration_text
from pruning.engine.compensation import Linear
from pruning.engine.dense_pass import HALVES, unit_times
from pruning.engine.devices import devices, free_memory, synchronize
from pruning.engine.memory import Tally
from pruning.healing.heal_settings import (
    SELECTING,
    TRIAL_STEPS,
    Lora,
    LossWeights,
    NoHealing,
    Training,
)
from pruning.healing.loop import latest_checkpoint, read_record, step_of
from pruning.healing.losses import summed_loss
from pruning.healing.rate import known, settled
from pruning.models.blocks import find_blocks, gradients_kept, input_device
from pruning.models.products import native_products
from pruning.objective import Calibrated
from pruning.runs.cell import Cell, Prepared
from pruning.runs.loaded_cell import cell_space, forward_of, model_of
from pruning.runs.measurements import check_repair
from pruning.runs.run_cell import score_key

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
    """Seconds by part of the work; bytes of memory that the process needs, and that it can have."""

    parts: Mapping[str, float]
    memory: int
    available: int

    @property
    def seconds(self) -> float:
        """The seconds of all parts."""
        return sum(self.parts.values())


class Machine:
    """What a cell costs on this machine: the model is loaded, and a few tokens are timed.

    Raises UnskippableError or InputError if the model cannot be divided, searched or repaired as the cell asks for.
    """

    def __init__(self, prepared: Prepared) -> None:
        cell, started = prepared.cell, time.perf_counter()
        self.model = model_of(cell)
        self.loading = time.perf_counter() - started
        forward, self.space = forward_of(cell, self.model), cell_space(cell, self.model)
        check_repair(prepared, forward, self.space.unit)
        self.kept = 1 - (cell.ratio if cell.ratio is not None else (cell.k or 0) / self.space.n_units)
        self.used, self.free = psutil.Process().memory_info().rss, free_memory(self.model.module)
        losses = Calibrated(cell.objective, forward, prepared.samples)
        self.rates = measured_rates(losses, self.space.drop(self.space.free()[0]))
        self.rows = prepared.samples.rows

    def training(self, heal: Training) -> TrainingRates:
        """What a training costs. If not even its weights fit into memory, nothing is timed."""
        module = self.model.module
        blocks = find_blocks(module).modules
        inside = [weight for block in blocks for weight in block.parameters()]
        size, trained = sum(w.numel() * w.itemsize for w in inside), sum(w.numel() for w in inside)
        gradients = size
        if heal.adapter:
            layers = [one for block in blocks for one in block.modules() if isinstance(one, nn.Linear)]
            rank = getattr(heal, "rank", 0)
            trained = sum(rank * (one.in_features + one.out_features) for one in layers)
            gradients = 0
        weights = int(self.kept * (size + TRAINED * trained + gradients))
        if weights > self.free:
            return TrainingRates(0.0, 0.0, weights)
        seconds, tokens = _training(module, self.rows, heal)
        return TrainingRates(self.kept * seconds, self.kept * tokens, weights)

    def forecast(
        self, prepared: Prepared, training: TrainingRates | None, speed: Speed | None, export: bool
    ) -> Forecast:
        """What the rest of a cell takes, without what earlier runs have finished.

        `speed` says whether the speed is measured too, and `export` whether a checkpoint is written.
        """
        cell, rates, space = prepared.cell, self.rates, self.space
        done = cell.done()
        tokens, repairs = _tokens(prepared.samples.rows), isinstance(cell.compensation, Linear)
        parts: dict[str, float] = {}
        if done is None:
            left = max(0, cell.evaluations(space) - self._scored(prepared))
            each = rates.loss - rates.blocks + SHARED * rates.blocks
            raced = 1.0 if cell.racing.delta is None else RACED
            parts["search"] = tokens * (rates.first + raced * left * each)
            count = round((1 - self.kept) * space.n_units)
            parts["repair"] = repairs * MAPS * count * tokens * rates.blocks
        measured = 0 if done is not None else 3 if repairs else 2
        extra = 0
        if prepared.text is not None and training is not None:
            extra = training.memory(cell.heal.micro_tokens)
            if not _healed(prepared, prepared.text, done):
                parts["healing"] = _healing(prepared, prepared.text, training, self.kept * rates.dense)
                measured += 1
        rows = [row for data in prepared.data.values() if isinstance(data, Samples) for row in data.rows]
        parts["evaluation"] = measured * rates.dense * _tokens(rows)
        if speed is not None and (done is None or "speed" not in done["evaluation"]):
            shapes = [(batch, prompt) for batch in speed.batch_sizes for prompt in speed.prompts]
            once = sum(b * p * rates.dense + b * speed.new_tokens * rates.generated for b, p in shapes)
            parts["speed"] = 2 * (speed.repeats + speed.warmup) * once
        if export:
            parts["export"] = LOADS * self.loading
        module, single = self.model.module, 0
        if done is None and cell.near_ties.most and module.dtype in HALVES:
            single = sum(4 * weight.numel() for weight in module.parameters())
        # The most bytes besides the loaded model: of the search's states with a float32 copy for near ties, of the
        # training, or of the export.
        width = int(module.config.get_text_config(decoder=True).hidden_size)
        states = single + self.model.info.n_blocks * tokens * width * int(module.dtype.itemsize)
        weights = sum(weight.numel() * weight.itemsize for weight in module.parameters())
        extra = max(extra, states, 2 * weights)
        left_over = {name: seconds for name, seconds in parts.items() if seconds > 0}
        return Forecast(left_over, self.used + extra, self.used + self.free)

    def _scored(self, prepared: Prepared) -> int:
        """About how many of a cell's masks are scored: by an earlier run of it, or by a cell that it shares with."""
        cell = prepared.cell
        key = score_key(prepared, self.model.info, self.space.unit)
        others = (cell.results / "scores" / key).glob("*") if cell.share else ()
        folders = [cell.folder, *(cell.results / path.name for path in others)]
        return max(sum(1 for _ in scoring.read_trace(folder / scoring.NAME)) for folder in folders)


# What is decided for a cell: how it is trained, from the free memory, and its sizes, from a number of minutes.

SEARCHED = 0.5  # the largest part of the time for search and training that is given to the search
FEWEST = 8  # calibration samples
DECIDES = "brief"  # the option of `heal` that leaves it to the program how to train


def decided(
    prepared: Prepared, machine: Machine, speed: Speed | None, minutes: float | None
) -> tuple[Cell, TrainingRates | None, list[str]]:
    """The cell with what memory and time allow, the costs of its training, and what was decided, in words.

    With heal=brief, all weights are trained if they fit into memory, and else adapters. With `minutes`, calibration
    samples are halved until the search takes at most half of the time, and the training takes what is left. Raises
    InputError with the numbers if no training fits, or if the time is too short for the search with few samples.
    """
    cell, said = prepared.cell, list[str]()
    training = None
    if cell.heal.trains:
        cell, training = _fitting(cell, machine, said)
    if minutes is None:
        return cell, training, said

    def parts(cell: Cell, rows: Samples) -> Mapping[str, float]:
        return machine.forecast(replace(prepared, cell=cell, samples=rows), training, speed, True).parts

    samples, calibration = prepared.samples, cast(Any, cell.calibration)
    asked = number = getattr(calibration, "samples", 0)
    while True:
        found = parts(cell, samples)
        searching = found.get("search", 0.0) + found.get("repair", 0.0)
        fixed = sum(found.values()) - searching - found.get("healing", 0.0)
        share = 1.0 if training is None else SEARCHED
        if searching <= share * max(0.0, 60 * minutes - fixed):
            break
        if number < 2 * FEWEST:
            least = (fixed + searching / share) / 60
            raise InputError(
                f"minutes={minutes:g} is too short: the search on {samples.count} samples takes about "
                f"{duration_text(searching)}, and measuring and writing {duration_text(fixed)}. Give "
                f"minutes={math.ceil(least)} or more, or remove fewer blocks."
            )
        number, samples = number // 2, samples.part(0, samples.count // 2)
        cell = with_settings(cell, "calibration", replace(calibration, samples=number))
    if number != asked:
        said.append(f"{number} calibration samples instead of {asked}")
    if training is not None and (healing := found.get("healing", 0.0)):
        heal: Training = cell.heal
        step, half = heal.windows * heal.length, heal.tokens // 2
        # Trials of the rate and held-out losses take the same time for each budget.
        shorter = parts(with_settings(cell, "heal", replace(heal, tokens=half)), samples).get("healing", 0.0)
        each = (healing - shorter) / (heal.tokens - half)
        most = int(heal.tokens - (healing - (60 * minutes - fixed - searching)) / each) // step * step
        if most < TRIAL_STEPS * step:
            said.append("no training, for which no time is left")
            return with_settings(cell, "heal", NoHealing(), "none"), None, said
        if most < heal.tokens:
            said.append(f"training on {most:,} tokens instead of {heal.tokens:,}")
            cell = with_settings(cell, "heal", replace(heal, tokens=most))
    return cell, training, said


def _fitting(cell: Cell, machine: Machine, said: list[str]) -> tuple[Cell, TrainingRates]:
    """The cell with a training that fits into memory, and its costs. Raises InputError if none does."""
    heal: Training = cell.heal
    ways = [(heal, "heal=" + str(cell.config["heal"][OPTION]))]
    if cell.config["heal"][OPTION] == DECIDES:
        ways = [(heal, "all weights"), (Lora(**dataclasses.asdict(heal)), "adapters")]
    needs = []
    for way, name in ways:
        training = machine.training(way)
        room = machine.free - training.weights
        at_once = way.micro_tokens if training.token_bytes == 0 else int(room / training.token_bytes)
        if room < 0 or at_once < way.length:
            needs.append(f"{name} about {bytes_text(machine.used + training.memory(way.length))}")
            continue
        if needs:
            said.append(f"{name} are trained, because {needs[0]} would be needed")
            cell = with_settings(cell, "heal", way, "lora")
        if at_once < way.micro_tokens:
            at_once = at_once // way.length * way.length
            said.append(f"heal.micro_tokens={at_once}, to save memory")
            cell = with_settings(cell, "heal", replace(cell.heal, micro_tokens=at_once))
        return cell, training
    raise InputError(
        f"the training does not fit into memory: {' and '.join(needs)} would be needed, and "
        f"{bytes_text(machine.used + machine.free)} can be had. Leave it out with heal=none, or use a machine with "
        "more memory."
    )


def with_settings(cell: Cell, group: str, settings: Any, option: str | None = None) -> Cell:
    """The cell with other settings of `heal`, `calibration` or `eval`; `option` is the name of another option."""
    name = cell.config[group][OPTION] if option is None else option
    kept = {key: value for key, value in dataclasses.asdict(settings).items() if key not in SELECTING}
    parts = {key: value for key, value in cell.config.get(group, {}).items() if isinstance(value, Mapping)}
    record = {OPTION: name, CLASS: type(settings).__name__, **kept, **parts}
    if getattr(settings, "candidates", 1) > 1:
        record |= {key: getattr(settings, key) for key in SELECTING}
    field = "evaluation" if group == "eval" else group
    config = {**cell.config, group: record}
    if isinstance(settings, NoHealing):
        del config[group]
    return replace(cell, config=config, **{field: settings})


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


def _healing(prepared: Prepared, text: HealingText, training: TrainingRates, judging: float) -> float:
    """Seconds of the steps that no checkpoint has, and of the losses on held-out windows (`judging` for a token)."""
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
    return heal.length * (left * heal.windows * training.seconds + judged * judging)


# Measure how fast this machine scores, trains and runs a model, on a few tokens, to forecast what a cell takes.

QUICK = 1.0  # seconds: if one sample takes less, more are timed, because a token is cheaper in a large batch


@dataclass(frozen=True)
class Rates:
    """Seconds for each token: of the first loss of an objective, of each further loss, and of blocks alone in it.

    `dense` is for a token that an evaluation scores, and `generated` for a new token.
    """

    first: float
    loss: float
    blocks: float
    dense: float
    generated: float


@dataclass(frozen=True)
class TrainingRates:
    """Seconds and bytes for each token of a training pass, and bytes of its weights, gradients and optimizer."""

    seconds: float
    token_bytes: float
    weights: int

    def memory(self, tokens: int) -> int:
        """The bytes of a training that takes so many tokens at once."""
        return self.weights + int(tokens * self.token_bytes)


def measured_rates(losses: Calibrated, mask: Mask) -> Rates:
    """The rates of a cell. `mask` removes an early unit, so its loss shares no prefix with the dense model's."""
    forward, samples = losses.forward, losses.samples
    alone, count = samples.part(0, 1), 1
    once = _seconds(lambda: _score(forward, alone.rows))
    if once <= QUICK:  # as many as one batch has, for at most QUICK seconds
        count = max(1, min(samples.count, forward.batch_tokens // _tokens(alone.rows), int(QUICK / once)))
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
    return Rates(first, loss, min(blocks, loss), dense, generated)


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
