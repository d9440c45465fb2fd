"""Forecast the time and memory that a cell needs on this machine, and decide how a guided cell is trained.

Masks share prefixes of their forward passes, so a search computes only about the fraction `SHARED` of all
block passes (`docs/engine.md`). All numbers are rough: they are for a person who decides whether to wait.
"""

from __future__ import annotations

import dataclasses
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruning.algo.one_shot import OneShot
from pruning.calibration.samples import Samples
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import CLASS, OPTION, same_settings
from pruning.core.units import bytes_text, duration_text
from pruning.engine.compensation import Linear
from pruning.engine.dense_pass import HALVES, float32_bytes, unit_times
from pruning.engine.devices import devices, free_memory, peak_memory, synchronize
from pruning.evaluation.heldout import Heldout
from pruning.healing import heal_settings
from pruning.healing.losses import summed_loss
from pruning.models.blocks import find_blocks, gradients_kept, input_device
from pruning.models.products import native_products
from pruning.objective import Calibrated
from pruning.runs.cell import Cell, Prepared, cell_space, forward_of, model_of
from pruning.runs.measurements import check_repair

if TYPE_CHECKING:
    from pruning.calibration.samples import Row
    from pruning.engine.forward import Forward
    from pruning.evaluation.speed import Speed


SHARED = 0.4  # the fraction of block forward passes that a search computes, because masks share prefixes
RACED = 0.5  # the mean fraction of the samples on which a race scores a mask (benchmarks/racing.json)
MAPS = 0.5  # the mean number of passes over the samples, per removed unit, that fitting a repair's maps takes
LOADS = 4  # the time of an export, as a multiple of the time to load the model
TRAINED = 20  # bytes per trained parameter: copy, gradient, two moments, best values (docs/healing.md)
SAVED = 16  # bytes of a checkpoint per trained parameter: all of these without the gradient


@dataclass(frozen=True)
class Forecast:
    """Seconds for each part of the work; bytes of needed memory, of available memory, and of needed disk space.

    `trunk` is the size in bytes of files that are kept only so that a longer training run can continue. `measured` is
    the number of models that are evaluated.
    """

    parts: Mapping[str, float]
    memory: int
    available: int
    disk: int = 0
    trunk: int = 0
    measured: int = 0


class Machine:
    """Measured costs of a cell on this machine. Creating a `Machine` loads the model and times a few tokens.

    Four attributes are seconds per token: `loss` to compute a loss of the objective, `blocks` to run only the blocks,
    `dense` to evaluate, and `generated` to generate. Raises UnskippableError or InputError if the model
    cannot be divided, searched or repaired as the cell requires.
    """

    def __init__(self, prepared: Prepared) -> None:
        cell, started = prepared.cell, time.perf_counter()
        self.spent = 0.0  # seconds that the command has already taken
        self.model = model_of(cell)
        self.loading = time.perf_counter() - started
        forward, self.space = forward_of(self.model), cell_space(cell, self.model)
        check_repair(prepared, forward, self.space.unit)
        self.kept = 1 - (cell.ratio if cell.ratio is not None else (cell.k or 0) / self.space.n_units)
        self.used, self.free = psutil.Process().memory_info().rss, free_memory(self.model.module)
        self.rows = prepared.samples.rows
        samples, losses = prepared.samples, Calibrated(cell.objective, forward, prepared.samples)
        alone, count = samples.part(0, 1), 1
        once = _seconds(lambda: _score(forward, alone.rows))
        if once <= QUICK:  # time as many samples as fit into one batch and take at most about QUICK seconds
            count = max(1, min(samples.count, forward.batch_tokens // _tokens(alone.rows), int(QUICK / once)))
        part, some = losses.part(0, count), samples.part(0, count)
        tokens, length = _tokens(some.rows), len(some.rows[0].input_ids)
        mask = self.space.drop(self.space.free()[0])  # its pass shares almost no prefix with the dense pass
        list(part([Mask(forward.n_blocks, unit=mask.unit)]))  # the first loss also prepares the objective
        self.loss = _seconds(lambda: list(part([mask]))) / tokens
        warm = forward.fresh()
        _score(warm, some.rows)  # the first pass also measures the memory that it needs
        self.dense = _seconds(lambda: _score(warm, some.rows, mask)) / tokens
        blocks = sum(unit_times(self.model, "block", (max(1, tokens // length), length), 1)) / tokens
        self.blocks = min(blocks, self.loss)
        self.generated = sum(unit_times(self.model, "block", (1, 1), 3))

    def training(self, heal: heal_settings.Training) -> TrainingRates:
        """The costs of training with `heal`. If the weights alone do not fit into memory, nothing is timed."""
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
        checkpoint = int(self.kept * SAVED * trained)
        return TrainingRates(self.kept * seconds, self.kept * tokens, weights, checkpoint)

    def forecast(self, prepared: Prepared, training: TrainingRates | None, speed: Speed) -> Forecast:
        """The forecast of a guided cell, without the parts that earlier runs have finished."""
        cell, space = prepared.cell, self.space
        done = cell.done()
        tokens, repairs = _tokens(prepared.samples.rows), isinstance(cell.compensation, Linear)
        parts = {"start": self.spent}
        if done is None:
            each = self.loss - self.blocks + SHARED * self.blocks
            raced = 1.0 if cell.racing.delta is None else RACED
            parts["search"] = tokens * (self.loss + raced * cell.evaluations(space) * each)
            count = round((1 - self.kept) * space.n_units)
            parts["repair"] = repairs * MAPS * count * tokens * self.blocks
        measured = 0 if done is not None else 3 if repairs else 2
        extra = checkpoints = trunk = 0
        if prepared.text is not None and training is not None:
            extra = training.memory(cell.heal.micro_tokens)
            if done is None or not same_settings(done["config"].get("heal"), cell.config["heal"]):
                parts["healing"] = _healing(cell.heal, training, self.kept * self.dense)
                measured += 1
                # Each trial of a rate keeps its state. The training keeps its trunk, and the last checkpoint
                # until the next one is written.
                trunk = training.checkpoint
                checkpoints = trunk * max(3, len(cell.heal.rates) + 1)
        rows = [row for data in prepared.data.values() if isinstance(data, Samples) for row in data.rows]
        parts["evaluation"] = measured * self.dense * _tokens(rows)
        if done is None or "speed" not in done["evaluation"]:
            shapes = [(batch, prompt) for batch in speed.batch_sizes for prompt in speed.prompts]
            once = sum(b * p * self.dense + b * speed.new_tokens * self.generated for b, p in shapes)
            parts["speed"] = 2 * (speed.repeats + speed.warmup) * once
        parts["export"] = LOADS * self.loading
        module, single = self.model.module, 0
        if done is None and cell.near_ties.most and module.dtype in HALVES:
            single = float32_bytes(module)
        # Besides the loaded model, memory is needed for the largest of three steps: the search (hidden
        # states, and weights in float32 for near ties), the training, and the export. The export frees the loaded
        # model. It loads the dense model in float32, then writes or reads as many bytes as were freed; the proof
        # reads one block at a time.
        width = int(module.config.get_text_config(decoder=True).hidden_size)
        states = single + self.model.info.n_blocks * tokens * width * int(module.dtype.itemsize)
        weights = sum(weight.numel() * weight.itemsize for weight in module.parameters())
        whole = sum(weight.numel() * max(4, weight.itemsize) for weight in module.parameters())
        # transformers has the tensors of a GGUF file in memory beside the model.
        extra = max(extra, states, whole * (1 + cell.model.is_gguf))
        left_over = {name: seconds for name, seconds in parts.items() if seconds > 0}
        # The healed weights and the export have at most the size of the dense model each.
        disk = checkpoints + weights * (1 + ("healing" in parts))
        memory = max(self.used + extra, peak_memory(module))
        return Forecast(left_over, memory, self.used + self.free, disk, trunk, measured)


# Decide from the free memory how a cell is trained, and from the minutes how many samples and tokens it uses.

MEASURED = 0.25  # the evaluation gets at most this fraction of the minutes, if it can be shortened
SEARCHED = 0.5  # the search gets at most this fraction of the time for search and training
FEWEST = 8  # no decision leaves fewer calibration samples, or fewer windows to measure on
DECIDES = "brief"  # the option of `heal` with which the program decides how to train


def decided(
    prepared: Prepared, machine: Machine, speed: Speed, minutes: float | None
) -> tuple[Cell, TrainingRates | None, list[str]]:
    """The cell with settings that memory and time allow, the costs of its training, and the decisions in words.

    With heal=brief, all weights are trained if that fits into memory, else adapters. With `minutes`, three steps save
    time. First, windows and items of an evaluation on packaged data are halved until it takes at most the fraction
    `MEASURED` of the minutes. Then calibration samples are halved until the search takes at most the fraction
    `SEARCHED` of the time for search and training. Last, the training is shortened or left out. If a search on the
    fewest samples takes too long, one-shot search replaces it. Raises InputError with the numbers if no training fits
    into memory, or if even one-shot search on the fewest samples takes too long.
    """
    cell, said = prepared.cell, list[str]()
    training = None
    if cell.heal.trains:
        cell, training = _fitting(cell, machine, said)
    if minutes is None:
        return cell, training, said

    part = 1.0  # the fraction of the requested windows and items that is kept

    def parts(cell: Cell, rows: Samples) -> dict[str, float]:
        found = machine.forecast(replace(prepared, cell=cell, samples=rows), training, speed).parts
        return {name: seconds * (part if name == "evaluation" else 1) for name, seconds in found.items()}

    samples, calibration = prepared.samples, cast(Any, cell.calibration)
    evaluation = cast(Any, cell.evaluation)
    while (
        isinstance(evaluation, Heldout)
        and evaluation.samples >= 2 * FEWEST
        and parts(cell, samples).get("evaluation", 0.0) > MEASURED * 60 * minutes
    ):
        part /= 2
        evaluation = replace(evaluation, samples=evaluation.samples // 2, items=evaluation.items // 2)
        cell = with_settings(cell, "eval", evaluation)
    if part < 1:
        said.append(f"measured on {evaluation.samples} windows of each text and {evaluation.items} items")
    asked = number = getattr(calibration, "samples", 0)
    while True:
        found = parts(cell, samples)
        searching = found.get("search", 0.0) + found.get("repair", 0.0)
        fixed = sum(found.values()) - searching - found.get("healing", 0.0)
        left = max(0.0, 60 * minutes - fixed)
        # With the fewest samples, the search may take the time of the training, too.
        share = SEARCHED if training is not None and number >= 2 * FEWEST else 1.0
        if searching <= share * left:
            break
        if number < 2 * FEWEST:
            if cell.algo != OneShot():  # search anew on all samples
                number, samples = asked, prepared.samples
                cell = with_settings(cell, "calibration", calibration)
                cell = with_settings(cell, "algo", OneShot(), "one_shot")
                said.append(f"one-shot search instead of {prepared.cell.option('algo')}")
                continue
            raise InputError(
                f"minutes={minutes:g} is too short: the search on {samples.count} samples takes about "
                f"{duration_text(searching)}, and measuring and writing {duration_text(fixed)}. Give "
                f"minutes={math.ceil((fixed + searching) / 60)} or more."
            )
        number, samples = number // 2, samples.part(0, samples.count // 2)
        cell = with_settings(cell, "calibration", replace(calibration, samples=number))
    if number != asked:
        said.append(f"{number} calibration samples instead of {asked}")
    if training is not None and (healing := found.get("healing", 0.0)):
        heal: heal_settings.Training = cell.heal
        step, half = heal.windows * heal.length, heal.tokens // 2
        # Trials of the learning rate, and the losses after them, take the same time for every budget.
        halved = parts(with_settings(cell, "heal", replace(heal, tokens=half)), samples).get("healing", 0.0)
        each = (healing - halved) / (heal.tokens - half)
        most = int(heal.tokens - (healing - (60 * minutes - fixed - searching)) / each) // step * step
        if most < (least := heal_settings.TRIAL_STEPS * step):
            needed = fixed + searching + healing - (heal.tokens - least) * each
            said.append(f"no training, which needs about minutes={math.ceil(needed / 60)}")
            return with_settings(cell, "heal", heal_settings.NoHealing(), "none"), None, said
        if most < heal.tokens:
            said.append(f"training on {most:,} tokens instead of {heal.tokens:,}")
            cell = with_settings(cell, "heal", replace(heal, tokens=most))
    return cell, training, said


def shortened(
    cell: Cell, training: TrainingRates, judging: float, left: float, slower: float
) -> tuple[Cell, TrainingRates | None, str | None]:
    """The cell with a training that takes at most `left` seconds, its costs, and the change in words.

    Held-out losses take `judging` seconds per token. All costs are multiplied by `slower`. A training that fits is
    not changed; one that is too short for the trials of the learning rate is left out.
    """
    heal: heal_settings.Training = cell.heal
    step, half = heal.windows * heal.length, heal.tokens // 2
    healing, halved = (
        slower * _healing(one, training, judging) for one in (heal, replace(heal, tokens=half))
    )
    each = (healing - halved) / (heal.tokens - half)
    if (most := int(heal.tokens - (healing - left) / each) // step * step) >= heal.tokens:
        return cell, training, None
    if most < heal_settings.TRIAL_STEPS * step:
        return with_settings(cell, "heal", heal_settings.NoHealing(), "none"), None, "no training"
    cell = with_settings(cell, "heal", replace(heal, tokens=most))
    return cell, training, f"training on {most:,} tokens instead of {heal.tokens:,}"


def _fitting(cell: Cell, machine: Machine, said: list[str]) -> tuple[Cell, TrainingRates]:
    """The cell with training settings that fit into memory, and their costs. Raises InputError if none fit."""
    heal: heal_settings.Training = cell.heal
    ways = [(heal, "heal=" + str(cell.config["heal"][OPTION]))]
    if cell.config["heal"][OPTION] == DECIDES:
        ways = [(heal, "all weights"), (heal_settings.Lora(**dataclasses.asdict(heal)), "adapters")]
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
    """The cell with new settings in `group` (heal, calibration or eval); `option` is their name (None: unchanged)."""
    name = cell.config[group][OPTION] if option is None else option
    kept = {
        key: value
        for key, value in dataclasses.asdict(settings).items()
        if key not in heal_settings.SELECTING
    }
    parts = {key: value for key, value in cell.config.get(group, {}).items() if isinstance(value, Mapping)}
    record = {OPTION: name, CLASS: type(settings).__name__, **kept, **parts}
    if getattr(settings, "candidates", 1) > 1:
        record |= {key: getattr(settings, key) for key in heal_settings.SELECTING}
    field = "evaluation" if group == "eval" else group
    config = {**cell.config, group: record}
    if isinstance(settings, heal_settings.NoHealing):
        del config[group]
    return replace(cell, config=config, **{field: settings})


def _healing(heal: heal_settings.Training, training: TrainingRates, judging: float) -> float:
    """Seconds for the training and for its held-out losses, which take `judging` seconds per token."""
    # The trial of the best rate is also the start of the training itself, so it costs nothing extra.
    trials = len(heal.rates) - 1
    judged = heal.heldout * (1 + heal.steps // heal.eval_every + 2 * trials)
    steps = heal.steps + trials * (heal.trial_tokens // (heal.windows * heal.length))
    return heal.length * (steps * heal.windows * training.seconds + judged * judging)


# Measure on a few tokens how fast this machine scores, trains and runs a model.

QUICK = 1.0  # seconds: if one sample takes less, more are timed, because tokens are cheaper in a large batch


@dataclass(frozen=True)
class TrainingRates:
    """Seconds and bytes per training token; bytes of weights, gradients and optimizer; bytes of a checkpoint."""

    seconds: float
    token_bytes: float
    weights: int
    checkpoint: int = 0

    def memory(self, tokens: int) -> int:
        """The bytes that training needs if `tokens` tokens are processed at once."""
        return self.weights + int(tokens * self.token_bytes)


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


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were created in its context and still exist; keeps the highest count."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count the tensors that it returns, unless they share memory with its inputs."""
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs and storage._cdata not in self._counted:
                self._counted.add(storage._cdata)
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, number: int, size: int) -> None:
        self._counted.discard(number)
        self.live -= size


def _training(module: Any, rows: Sequence[Row], heal: heal_settings.Training) -> tuple[float, float]:
    """Seconds and bytes per token of a training pass (forward and backward) of the dense model."""
    device, tally = input_device(module), Tally()
    weights = heal_settings.LossWeights(kl=float(heal.losses.kl > 0))
    length = min(len(row.input_ids) for row in rows)

    def run(count: int) -> None:
        ids = torch.tensor([row.input_ids[:length] for row in rows[:count]], device=device)
        teacher = module if weights.kl else None
        loss = summed_loss(module, ids, weights, teacher, heal.gradient_checkpointing)
        torch.autograd.backward(loss)
        for parameter in module.parameters():
            parameter.grad = None
        synchronize(devices(module))

    blocks = find_blocks(module).modules
    # With adapters, only the first block gets gradients, for a full backward pass; without, all blocks do.
    inside = {id(w) for block in (blocks[:1] if heal.adapter else blocks) for w in block.parameters()}
    with gradients_kept(module.parameters()), torch.enable_grad():
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in inside and parameter.is_floating_point())
        with tally, native_products(module):  # without float32 copies, whose size is fixed
            run(1)
        count = max(1, min(len(rows), heal.micro_tokens // length))
        seconds = _seconds(lambda: run(count))
    return seconds / (count * length), tally.most / length
