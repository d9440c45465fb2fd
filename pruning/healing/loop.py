"""Heal one mask: train the smaller model, and return the weights that have changed.

Training runs that differ only in their budget can share their first steps. The state at which a run's
learning rate begins to fall is kept in `trunk-LINE/` (see `Training.line`), and a run with a larger budget
continues from it. Files that only one run needs are in a folder named after the run's digest.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pruning.calibration.samples import Row
from pruning.core import records, storage
from pruning.core.errors import DamagedError, InputError, LossError, first_line
from pruning.core.mask import Mask
from pruning.core.records import EVALUATION, FOLDER, RECORD, CurveRecord, HealRecord, Point, check_inside
from pruning.core.storage import file_sha256, naming, sweep, temporary_file
from pruning.engine import collectives
from pruning.healing.heal_settings import Distill, Lora, LossWeights, Training
from pruning.healing.losses import summed_loss
from pruning.healing.training_text import HealingText, epochs
from pruning.models.blocks import find_blocks, gradients_kept, input_device
from pruning.models.output_maps import Repair, repaired
from pruning.models.placement import LanguageModel
from pruning.models.removal import blocks_removed, smaller_config

Watch = Callable[[Point], None]  # called after each step

CHECKPOINTS = "checkpoints"  # the folder of files that are needed only until healing is finished
ADAPTER = "heal"
BETAS = (0.9, 0.95)  # of AdamW
CLIP = 1.0  # the largest norm of a gradient


@dataclass(frozen=True)
class Healed:
    """A healed model, its changed weights by their names in the dense model, and how it was healed.

    `heldout_after` is the held-out loss of these weights, `trained` is the number of trained parameters, and `epochs`
    is how often the text is read if the whole budget is used.
    """

    smaller: SmallerModel
    tensors: dict[str, Tensor]
    curve: list[Point]
    heldout_after: float
    best_step: int
    stopped_early: bool
    trained: int
    epochs: float

    def summary(self) -> CurveRecord:
        """The held-out loss before and after training, and the training loss of the first and last step."""
        losses = [point["loss"] for point in self.curve if "loss" in point]
        return {
            "heldout_before": records.heldout(self.curve)[0]["heldout_loss"],
            "heldout_after": self.heldout_after,
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }


def heal(
    model: LanguageModel,
    mask: Mask,
    text: HealingText,
    settings: Training,
    folder: Path | None = None,
    watch: Watch = lambda _: None,
    repair: Repair | None = None,
) -> Healed:
    """Train the model that lacks a mask's units. With a `folder`, a killed run continues from its last checkpoint.

    `repair` has maps to fold in. Raises LossError if a loss is not finite, and the errors of `smaller_model`.
    """
    read = epochs(text, settings)
    with gradients_kept(model.module.parameters()):  # the smaller model shares some of these weights
        smaller = smaller_model(model, mask, repair)
        weights: dict[str, Any] = {}
        if settings.adapter:
            assert isinstance(settings, Lora | Distill)
            trained: list[Any] = add_adapters(smaller, settings.rank, settings.alpha, settings.seed)
        else:
            weights = {n: one for n, one in smaller.block_weights().items() if one.is_floating_point()}
            trained = list(weights.values())
        log = None if folder is None else folder / settings.key(text.sha256) / records.CURVE
        teacher = model.module if settings.losses.kl else None
        trainer = Trainer(smaller, trained, text, settings, teacher, log, watch)

        # First the steps that larger budgets share with this one, then the remaining ones.
        trunk, ending = (None, None) if folder is None else _places(settings, text, folder)
        if folder is not None and (saved := latest_checkpoint(settings, text, folder)) is not None:
            trainer.resume(saved)
        if trainer.state.step < settings.stable:
            trainer.run(settings.stable, ending)
            if trunk is not None and not trainer.stopped:
                trainer.save(trunk)
        trainer.run(settings.steps, ending)
        trainer.finish()

        state, early = trainer.state, trainer.stopped and trainer.state.step < settings.steps
        tensors = {name: weight.detach() for name, weight in weights.items()}
        after = state.best_loss
        if settings.adapter:  # merging rounds the weights, so the loss differs from the curve's
            tensors = merge_adapters(smaller)
            after = trainer.heldout_loss()
        for weight in smaller.model.module.parameters():
            weight.requires_grad_(False)
        count = sum(weight.numel() for weight in trainer.masters)
        return Healed(smaller, tensors, state.curve, after, state.best_step, early, count, read)


# The training run.


@dataclass
class TrainingState:
    """The progress of a training run: its step, its curve, and its best weights so far.

    `best` are the weights with the lowest held-out loss; None before the first evaluation. `worse` counts the
    evaluations since the lowest loss.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = float("inf")
    best: list[Tensor] | None = None
    worse: int = 0


class Trainer:
    """Trains `parameters` of a smaller model on a text; dropout is off.

    An update is often smaller than the spacing of bfloat16 numbers. So gradients and AdamW's updates go to
    float32 copies of the weights, and the model gets the rounded values of the copies. Each rank takes its
    share of a step's windows. `teacher` is the dense model, if the losses need it. `log` is the file of the
    curve; if it is None, the curve is only in memory.
    """

    def __init__(
        self,
        smaller: SmallerModel,
        parameters: Sequence[nn.Parameter],
        text: HealingText,
        settings: Training,
        teacher: Any = None,
        log: Path | None = None,
        watch: Watch = lambda _: None,
    ) -> None:
        if settings.windows < collectives.world_size():
            raise InputError(
                f"a step has {settings.windows} windows, which {collectives.world_size()} ranks cannot share: "
                "raise heal.batch_tokens, or start fewer ranks."
            )
        self.student = smaller.model.module
        self.parameters, self.text, self.settings = parameters, text, settings
        self.teacher, self.log, self.watch = teacher, log, watch
        assert settings.lr is not None, "trials choose the rate before anything is trained"
        self.rate = settings.lr
        for weight in self.student.parameters():
            weight.requires_grad_(False)
        for weight in parameters:
            weight.requires_grad_(True)
        self.masters = [nn.Parameter(weight.detach().float().clone()) for weight in parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=self.rate, betas=BETAS, weight_decay=0.0)
        self.state = TrainingState()

    @property
    def stopped(self) -> bool:
        """Whether the held-out loss has not fallen in the last `patience` evaluations."""
        return 0 < self.settings.patience <= self.state.worse

    def run(self, stop: int, folder: Path | None) -> None:
        """Train up to step `stop`, with checkpoints in `folder`. Raises LossError if a loss is not finite."""
        if not self.state.curve:
            self._note({"step": 0, "tokens": 0, "seconds": 0.0})
        every = self.settings.eval_every
        while self.state.step < stop and not self.stopped:
            self._step()
            if folder is not None and self.state.step < stop and self.state.step % every == 0:
                self.save(folder, only=True)

    def finish(self) -> None:
        """Write the curve, and load the weights with the lowest held-out loss into the model."""
        last = self.state.curve[-1]
        if not self.stopped and last.get("heldout_loss") is None:
            self._judge(last)
            self.watch(last)
        if (log := self.log) is not None:
            lines = "".join(json.dumps(point) + "\n" for point in self.state.curve)
            collectives.on_first(lambda: storage.write_text(log, lines))
        self._write_back(self.masters if self.state.best is None else self.state.best)

    def heldout_loss(self) -> float:
        """The cross entropy per predicted token on the held-out windows, in nats."""
        total = 0.0
        with torch.no_grad():
            for ids in self._batches(collectives.share_of(self.text.heldout)):
                total += float(summed_loss(self.student, ids, LossWeights()))
        return _over_ranks(total) / (len(self.text.heldout) * (self.settings.length - 1))

    def _step(self) -> None:
        """Make one step of the optimizer."""
        started, state, settings = time.perf_counter(), self.state, self.settings
        rate = self.rate * settings.factor(state.step)
        loss = self._gradients(self.text.batch(state.step, settings.windows))
        if not math.isfinite(loss):
            raise LossError(
                f"the loss of healing is {loss} at step {state.step + 1} of {settings.steps}: lower heal.lr "
                f"({self.rate:g}), or try model.dtype=float32."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(self.masters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._write_back(self.masters)
        state.step += 1
        tokens = state.step * settings.windows * settings.length
        state.seconds += time.perf_counter() - started
        seconds = round(state.seconds, 3)
        self._note({"step": state.step, "tokens": tokens, "seconds": seconds, "loss": loss, "lr": rate})

    def _gradients(self, rows: Sequence[Row]) -> float:
        """Give the float32 copies the gradients of a step's mean loss, summed over ranks; returns the loss."""
        scale, total = 1.0 / (len(rows) * (self.settings.length - 1)), 0.0
        gradients = [torch.zeros_like(master) for master in self.masters]
        losses, recompute = self.settings.losses, self.settings.gradient_checkpointing
        for ids in self._batches(collectives.share_of(rows)):
            loss = scale * summed_loss(self.student, ids, losses, self.teacher, recompute)
            torch.autograd.backward(loss)
            total += float(loss.detach())
            for gradient, weight in zip(gradients, self.parameters, strict=True):
                if weight.grad is not None:
                    gradient.add_(weight.grad)
                    weight.grad = None
        for master, gradient in zip(self.masters, gradients, strict=True):
            if collectives.world_size() > 1:
                gradient.copy_(torch.from_numpy(collectives.all_sum(gradient.cpu().numpy())))
            master.grad = gradient
        return _over_ranks(total)

    def _batches(self, rows: Sequence[Row]) -> Iterator[Tensor]:
        """Yield the token ids (B, T) of the windows `rows`, at most `micro_tokens` tokens at a time."""
        size, device = max(1, self.settings.micro_tokens // self.settings.length), input_device(self.student)
        for start in range(0, len(rows), size):
            yield torch.tensor([row.input_ids for row in rows[start : start + size]], device=device)

    def _write_back(self, weights: Sequence[Tensor]) -> None:
        """Copy these weights into the model, rounded to its precision."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)

    def _note(self, point: Point) -> None:
        """Add a point to the curve; every `eval_every` steps, the point includes the held-out loss."""
        if self.state.step % self.settings.eval_every == 0:
            self._judge(point)
        self.state.curve.append(point)
        self.watch(point)

    def _judge(self, point: Point) -> None:
        """Add the held-out loss to a point, and keep the weights if the loss is the lowest so far."""
        state, loss = self.state, self.heldout_loss()
        if not math.isfinite(loss):
            raise LossError(f"the held-out loss of healing is {loss} at step {state.step}: lower heal.lr.")
        point["heldout_loss"] = loss
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.worse = loss, state.step, 0
            state.best = [master.detach().clone() for master in self.masters]
        else:
            state.worse += 1

    # Checkpoints. The order of the data and the learning rate are functions of the step, and training uses no
    # random numbers. So a checkpoint contains only weights, optimizer and state. A file is written
    # atomically, so the last one is complete even after a kill.

    def save(self, folder: Path, only: bool = False) -> None:
        """Write a checkpoint and, if `only` is true, remove all others. Only the first rank does this."""
        state = self.state
        weights = [master.detach() for master in self.masters]
        data = {"weights": weights, "optimizer": self.optimizer.state_dict(), **vars(state)}
        data["curve"] = json.dumps(state.curve)

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            path = folder / f"step-{state.step:08d}.pt"
            with naming(path), temporary_file(path) as (stream, temporary):
                try:
                    torch.save(data, stream)
                except RuntimeError as error:  # if a write fails, torch raises its own error instead
                    if isinstance(cause := error.__context__, OSError):
                        raise cause from error
                    raise
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(path)
            for _, older in _checkpoints(folder) if only else ():
                if older != path:
                    older.unlink(missing_ok=True)

        collectives.on_first(write)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. Raises DamagedError if the file cannot be read."""
        try:
            data = torch.load(path, map_location="cpu", weights_only=True)
            weights, optimizer = data.pop("weights"), data.pop("optimizer")
            self.state = TrainingState(**{**data, "curve": json.loads(data["curve"])})
        except (RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, ValueError, OSError) as error:
            raise DamagedError(
                f"{path} is damaged ({first_line(error)}): remove it, and healing starts from an earlier state."
            ) from error
        for master, weight in zip(self.masters, weights, strict=True):
            master.data.copy_(weight)
        self.optimizer.load_state_dict(optimizer)
        self._write_back(self.masters)


# Checkpoints in a folder of training runs.


def latest_checkpoint(settings: Training, text: HealingText, folder: Path) -> Path | None:
    """The checkpoint in `folder` from which training continues; None if there is none."""

    def find() -> Path | None:
        trunk, ending = _places(settings, text, folder)
        places = ((ending, settings.steps), (trunk, settings.stable))
        found = [one for place, most in places for one in _checkpoints(place) if one[0] <= most]
        return max(found)[1] if found else None

    return collectives.on_first(find)


def _places(settings: Training, text: HealingText, folder: Path) -> tuple[Path, Path]:
    """Two folders of checkpoints: those that runs with other budgets can use, and those of this budget only."""
    return folder / f"trunk-{settings.line(text.beginning)}", folder / settings.key(text.sha256) / CHECKPOINTS


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The step and the path of each checkpoint in `folder`."""
    return [(int(path.stem[len("step-") :]), path) for path in folder.glob("step-????????.pt")]


def _over_ranks(value: float) -> float:
    return float(collectives.all_sum(np.array([value]))[0])


# The smaller model: its blocks are copies, and it shares all other weights with the dense model.


@dataclass(frozen=True)
class SmallerModel:
    """A model without the units of a mask. `numbers` are its blocks' numbers in the dense model."""

    model: LanguageModel
    numbers: tuple[int, ...]

    def block_weights(self) -> dict[str, nn.Parameter]:
        """The weights of the blocks, by their names in the dense model."""
        blocks = find_blocks(self.model.module)
        return {
            f"{blocks.path}.{number}.{name}": weight
            for number, block in zip(self.numbers, blocks.modules, strict=True)
            for name, weight in block.named_parameters()
        }

    def apply(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace weights by healed ones. Raises InputError if a name or a shape does not fit."""
        weights = self.block_weights()
        for name, tensor in tensors.items():
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(f"the healed weights do not fit the model: there is no weight like {name}.")
            weights[name].data.copy_(tensor)


def smaller_model(model: LanguageModel, mask: Mask, repair: Repair | None = None) -> SmallerModel:
    """A copy of a model without the units of a mask; the maps of `repair` are folded into its weights.

    Raises InputError if everything is removed or if weights are on disk, and raises the errors of `smaller_config`.
    """
    module = model.module
    numbers = tuple(i for i in range(mask.n_blocks) if i not in mask.gone)
    if not numbers:
        raise InputError(f"{mask} are removed, so there is nothing to heal: give a mask that keeps some.")
    if any(weight.device.type == "meta" for weight in module.parameters()):
        raise InputError("the model does not fit into memory, so it cannot be trained: use a larger machine.")
    inside = {id(weight) for block in find_blocks(module).modules for weight in block.parameters()}
    shared = {id(weight): weight for weight in module.parameters() if id(weight) not in inside}
    with repaired(module, repair), blocks_removed(module, mask, smaller_config(module, mask)):
        smaller = copy.deepcopy(module, dict[int, Any](shared))
    count = sum(weight.numel() for weight in smaller.parameters())
    info = replace(model.info, n_blocks=len(numbers), parameters=count)
    return SmallerModel(LanguageModel(smaller, info), numbers)


# LoRA adapters on all linear layers of the blocks, made and merged by the package peft.


def add_adapters(smaller: SmallerModel, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Put adapters into a model, in place; returns their weights. Untrained adapters do not change the output.

    Linear layers are found by their class: `Linear`, or GPT-2's transposed `Conv1D`. Raises InputError if there are
    none.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    module = smaller.model.module
    path = f"{find_blocks(module).path}."
    modules = dict(module.named_modules())
    layers = [n for n, one in modules.items() if n.startswith(path) and isinstance(one, nn.Linear | Conv1D)]
    if not layers:
        raise InputError(
            f"the blocks of {type(module).__name__} have no linear layers, so there is nothing for adapters to "
            "adapt: train all weights with heal=full."
        )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # peft sets it for GPT-2's layers
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, lora_dropout=0.0, bias="none")
        inject_adapter_in_model(config, module, ADAPTER)
    return [
        weight for name, weight in module.named_parameters() if "lora_" in name.rpartition(f".{ADAPTER}")[0]
    ]


def merge_adapters(smaller: SmallerModel) -> dict[str, Tensor]:
    """Merge and remove each adapter, in place; returns the changed weights by their names in the dense model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    module = smaller.model.module
    changed = set[int]()
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            base: Any = layer.get_base_layer()
            changed.add(id(base.weight))
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, base)
    weights = smaller.block_weights().items()
    return {name: weight.detach() for name, weight in weights if id(weight) in changed}


# The folder of a healed model: its changed weights and its record. The record is written last.

WEIGHTS = "weights.safetensors"


def write_healed(
    folder: Path,
    healed: Healed,
    text: HealingText,
    settings: Training,
    inside: str = FOLDER,
    evaluation: Mapping[str, Any] | None = None,
) -> HealRecord:
    """Write the changed weights and the record, and remove checkpoints. The first rank does this.

    `inside` is the path of `folder`'s parent, relative to the cell's folder. If windows were left out because
    they share text with an evaluation, `evaluation` has the settings of that evaluation.
    """

    def write() -> HealRecord:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in healed.tensors.items()}
        with storage.naming(folder / WEIGHTS), temporary_file(folder / WEIGHTS) as (_, temporary):
            mode = temporary.stat().st_mode
            save_file(tensors, temporary)
            temporary.chmod(mode)  # safetensors writes files that only their owner can read
            temporary.replace(folder / WEIGHTS)
        last = healed.curve[-1]
        record: HealRecord = {
            "folder": f"{inside}/{folder.name}",
            "settings": settings.recorded(),
            "source": text.source,
            "text_sha256": text.sha256,
            "tokens": last["tokens"],
            "steps": last["step"],
            "epochs": round(healed.epochs, 4),
            "seconds": last["seconds"],
            "trained": healed.trained,
            "best_step": healed.best_step,
            "stopped_early": healed.stopped_early,
            "curve": healed.summary(),
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "tensors": len(tensors),
        }
        if text.file_sha256 is not None:
            record["file_sha256"] = text.file_sha256
        if text.left_out is not None:
            record["left_out"] = list(text.left_out)
            if evaluation is not None:
                record["evaluation"] = dict(evaluation)
        storage.write_record(folder / RECORD, record)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return record

    return collectives.on_first(write)


def read_record(folder: Path) -> HealRecord | None:
    """The record of a healed model, or None if healing is not finished; the same on all ranks."""

    def read() -> HealRecord | None:
        path = folder / RECORD
        if not path.exists():
            return None
        record = storage.read_json(path)
        if not isinstance(record, dict) or Path(str(record.get("folder"))).name != folder.name:
            raise DamagedError(f"{path} is damaged (from another folder): remove {folder} and heal again.")
        check_inside(record["folder"], f"{path}")
        return cast(HealRecord, record)

    return collectives.on_first(read)


def read_weights(folder: Path, record: Mapping[str, object]) -> dict[str, Tensor]:
    """The changed weights of a healed model, by their names in the dense model.

    Raises DamagedError if the file cannot be read or is not the one that the record describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        if file_sha256(path) == record["weights_sha256"]:
            return dict(load_file(path))
        reason = "its contents do not have the digest that heal.json names"
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
    raise DamagedError(f"{path} is damaged ({reason}): remove the folder {folder} and heal again.")


def write_evaluation(folder: Path, metrics: Mapping[str, float], records: Mapping[str, str]) -> None:
    """Add metrics of the healed model, and the path of each measurement's file, to the evaluation in `folder`."""

    def write() -> None:
        path = folder / EVALUATION
        old = storage.read_json(path) if path.exists() else {"metrics": {}, "records": {}}
        new = {"metrics": {**old["metrics"], **metrics}, "records": {**old["records"], **records}}
        if new != old:
            storage.write_record(path, new)

    collectives.on_first(write)
