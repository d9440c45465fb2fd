"""Heal one mask: train the smaller model, and return the weights that have changed.

Budgets of one line share their beginning. With the schedule `wsd`, the state in which a budget begins to decay is
kept in `trunk-LINE/`, and a larger budget continues from there. What only one budget needs is in the folder of its
own digest.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core import records
from pruning.core.errors import InputError
from pruning.core.mask import Mask
from pruning.core.records import CurveRecord, Point
from pruning.healing import training
from pruning.healing.heal_settings import Distill, Training, check_peft
from pruning.healing.training import Schedule, Trainer, Watch, Weights, schedule_of
from pruning.healing.training_text import HealingText, warn_about_epochs
from pruning.models.blocks import add_scales, find_blocks, gradients_kept
from pruning.models.model import LanguageModel
from pruning.models.output_maps import Repair, repaired
from pruning.models.removal import blocks_removed, smaller_config

CHECKPOINTS = "checkpoints"  # the folder of what is needed only until a healing is finished


@dataclass(frozen=True)
class Healed:
    """A healed model, its changed weights by their names in the dense model, and how it was healed.

    `heldout_after` is the held-out loss of these weights, `trained` is the number of trained parameters, and `epochs`
    is how often the budget reads the text.
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
        """The training in four numbers."""
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
    scales: Sequence[float] | None = None,
    watch: Watch = lambda _: None,
    repair: Repair | None = None,
) -> Healed:
    """Train the model without the units of a mask. With a folder, a killed run continues from its last checkpoint.

    `scales` are the factors of a compensation, and `repair` its maps. Raises LossError if a loss is not finite, and
    the errors of `smaller_model`.
    """
    settings.check()
    epochs = warn_about_epochs(text, settings)
    with gradients_kept(model.module.parameters()):  # the smaller model shares some of these weights
        return _healed(model, mask, text, settings, epochs, folder, scales, watch, repair)


def _healed(
    model: LanguageModel,
    mask: Mask,
    text: HealingText,
    settings: Training,
    epochs: float,
    folder: Path | None,
    scales: Sequence[float] | None,
    watch: Watch,
    repair: Repair | None,
) -> Healed:
    smaller = smaller_model(model, mask, scales, repair)
    losses = _losses(settings)
    trained = _trained(smaller, settings)
    own = None if folder is None else folder / settings.key(text.sha256)
    trainer = Trainer(
        smaller.model.module,
        list(trained.values()),
        text,
        settings,
        losses,
        model.module if losses.teaches else None,
        smaller.numbers,
        None if own is None else own / records.CURVE,
        watch,
    )
    _train(trainer, settings, folder)
    tensors = merge_adapters(smaller) if settings.adapter else _detached(trained)
    for weight in smaller.model.module.parameters():
        weight.requires_grad_(False)
    state, count = trainer.state, sum(master.numel() for master in trainer.state.weights)
    # Merging adapters rounds the weights, so the loss of the merged weights is not that on the curve.
    after = trainer.heldout_loss() if settings.adapter else state.best_loss
    return Healed(smaller, tensors, state.curve, after, state.best_step, trainer.stopped_early, count, epochs)


def latest_checkpoint(settings: Training, text: HealingText, folder: Path) -> Path | None:
    """The checkpoint in a folder of healings from which a training continues; None if there is none."""
    schedule = _schedule(settings)
    own = training.latest(_ending(settings, text, folder), schedule.steps)
    return own or training.latest(_trunk(settings, text, folder), schedule.stable)


def _train(trainer: Trainer, settings: Training, folder: Path | None) -> None:
    """Train to the end: first what larger budgets have in common with this one, then the rest."""
    schedule, text = _schedule(settings), trainer.text
    trunk = None if folder is None else _trunk(settings, text, folder)
    ending = None if folder is None else _ending(settings, text, folder)
    if folder is not None and (saved := latest_checkpoint(settings, text, folder)) is not None:
        trainer.resume(training.load(saved))
    if trainer.state.step < schedule.stable:
        trainer.run(schedule, schedule.stable, trunk, kept=True)
    trainer.run(schedule, schedule.steps, ending)
    trainer.finish()


def _schedule(settings: Training) -> Schedule:
    return schedule_of(settings.schedule, settings.steps, settings.warmup, settings.decay)


def _trunk(settings: Training, text: HealingText, folder: Path) -> Path:
    return folder / f"trunk-{settings.line(text.beginning)}"


def _ending(settings: Training, text: HealingText, folder: Path) -> Path:
    return folder / settings.key(text.sha256) / CHECKPOINTS


def _trained(smaller: SmallerModel, settings: Training) -> dict[str, Any]:
    """The weights to train: those of adapters, which are added, or all weights of the blocks by dense name."""
    if settings.adapter:
        rank, alpha = getattr(settings, "rank"), getattr(settings, "alpha")  # noqa: B009 - of Lora and Distill
        return dict(enumerate(add_adapters(smaller, rank, alpha, settings.seed)))  # type: ignore[arg-type]
    weights = smaller.block_weights()
    return {name: weight for name, weight in weights.items() if weight.is_floating_point()}


def _losses(settings: Training) -> Weights:
    if isinstance(settings, Distill):
        return Weights(settings.ce, settings.kl, settings.hidden, settings.temperature)
    return Weights()


def _detached(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in weights.items()}


# LoRA adapters on all linear layers of the blocks, made and merged by the package peft.

ADAPTER = "heal"


def linear_layers(smaller: SmallerModel) -> list[str]:
    """The names of all linear layers of the blocks, found by their class: `Linear`, or GPT-2's transposed `Conv1D`.

    Raises InputError if there are none.
    """
    from transformers.pytorch_utils import Conv1D

    module = smaller.model.module
    path = f"{find_blocks(module).path}."
    names = [
        name
        for name, one in module.named_modules()
        if name.startswith(path) and isinstance(one, nn.Linear | Conv1D)
    ]
    if not names:
        raise InputError(
            f"the blocks of {type(module).__name__} have no linear layers, so there is nothing for adapters to "
            "adapt: train all weights with heal=full."
        )
    return names


def add_adapters(smaller: SmallerModel, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Put adapters into a model, in place; returns their weights. At first they change nothing."""
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    names = linear_layers(smaller)
    module = smaller.model.module
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # peft sets it for GPT-2's layers
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")
        inject_adapter_in_model(config, module, ADAPTER)
    return [
        weight for name, weight in module.named_parameters() if "lora_" in name.rpartition(f".{ADAPTER}")[0]
    ]


def merge_adapters(smaller: SmallerModel) -> dict[str, Tensor]:
    """Add each adapter to its layer's weight and take it out, in place; returns the changed weights by dense name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    module = smaller.model.module
    layers = [(name, one) for name, one in module.named_modules() if isinstance(one, BaseTunerLayer)]
    changed = {id(_base(layer).weight) for _, layer in layers}
    for name, layer in layers:
        layer.merge()
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, _base(layer))
    return {
        name: weight.detach() for name, weight in smaller.block_weights().items() if id(weight) in changed
    }


def _base(layer: Any) -> Any:
    return layer.get_base_layer()


# The smaller model as a model of its own: its blocks are copies, all other weights are the dense model's.


@dataclass(frozen=True)
class SmallerModel:
    """A model without the units of a mask. `numbers` are its blocks' numbers in the dense model."""

    model: LanguageModel
    mask: Mask
    numbers: tuple[int, ...]

    @property
    def dense(self) -> Mask:
        """The mask over the blocks of the smaller model that removes nothing."""
        return Mask(len(self.numbers))

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


def smaller_model(
    model: LanguageModel, mask: Mask, scales: Sequence[float] | None = None, repair: Repair | None = None
) -> SmallerModel:
    """A copy of a model that lacks the units of a mask.

    `scales` are the factors of a compensation, one per unit; `repair` are maps that are folded into its weights.

    Raises InputError if nothing or everything is removed, or if weights are on disk, and the errors of
    `smaller_config`.
    """
    module = model.module
    numbers = tuple(i for i in range(mask.n_blocks) if i not in mask.gone)
    if not mask.dropped or not numbers:
        raise InputError(f"{mask} are removed, so there is nothing to heal: give a mask that removes some.")
    if any(weight.device.type == "meta" for weight in module.parameters()):
        raise InputError("the model does not fit into memory, so it cannot be trained: use a larger machine.")
    blocks = find_blocks(module)
    inside = {id(weight) for block in blocks.modules for weight in block.parameters()}
    shared = {id(weight): weight for weight in module.parameters() if id(weight) not in inside}
    with repaired(module, repair), blocks_removed(module, mask, smaller_config(module, mask)):
        smaller = copy.deepcopy(module, dict[int, Any](shared))
    found = find_blocks(smaller)
    if scales is not None:
        add_scales(found.modules, mask, scales)
    count = sum(weight.numel() for weight in smaller.parameters())
    info = replace(model.info, n_blocks=len(numbers), parameters=count)
    return SmallerModel(LanguageModel(smaller, info), mask, numbers)
