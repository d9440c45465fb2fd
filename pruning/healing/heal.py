"""Heal one mask: train the smaller model, and return the weights that have changed.

Budgets of one line share their beginning. With the schedule `wsd`, the state in which a budget begins to decay is
kept in `trunk-LINE/`, and a larger budget continues from there. What only one budget needs is in the folder of its
own digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.core.heal_record import CurveRecord
from pruning.core.mask import Mask
from pruning.healing import adapters, checkpoint, curve
from pruning.healing.curve import Point
from pruning.healing.readout_loss import Weights
from pruning.healing.schedule import Schedule, schedule_of
from pruning.healing.settings import Distill, Training
from pruning.healing.smaller import SmallerModel, smaller_model
from pruning.healing.text import HealingText, warn_about_epochs
from pruning.healing.trainer import Trainer, Watch
from pruning.models.block_probe import gradients_kept
from pruning.models.loader import LanguageModel
from pruning.models.repaired_weights import Repair

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
            "heldout_before": curve.heldout(self.curve)[0]["heldout_loss"],
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
        None if own is None else own / curve.NAME,
        watch,
    )
    _train(trainer, settings, folder)
    tensors = adapters.merge_adapters(smaller) if settings.adapter else _detached(trained)
    for weight in smaller.model.module.parameters():
        weight.requires_grad_(False)
    state, count = trainer.state, sum(master.numel() for master in trainer.state.weights)
    # Merging adapters rounds the weights, so the loss of the merged weights is not that on the curve.
    after = trainer.heldout_loss() if settings.adapter else state.best_loss
    return Healed(smaller, tensors, state.curve, after, state.best_step, trainer.stopped_early, count, epochs)


def latest_checkpoint(settings: Training, text: HealingText, folder: Path) -> Path | None:
    """The checkpoint in a folder of healings from which a training continues; None if there is none."""
    schedule = _schedule(settings)
    own = checkpoint.latest(_ending(settings, text, folder), schedule.steps)
    return own or checkpoint.latest(_trunk(settings, text, folder), schedule.stable)


def _train(trainer: Trainer, settings: Training, folder: Path | None) -> None:
    """Train to the end: first what larger budgets have in common with this one, then the rest."""
    schedule, text = _schedule(settings), trainer.text
    trunk = None if folder is None else _trunk(settings, text, folder)
    ending = None if folder is None else _ending(settings, text, folder)
    if folder is not None and (saved := latest_checkpoint(settings, text, folder)) is not None:
        trainer.resume(checkpoint.load(saved))
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
        return dict(enumerate(adapters.add_adapters(smaller, rank, alpha, settings.seed)))  # type: ignore[arg-type]
    weights = smaller.block_weights()
    return {name: weight for name, weight in weights.items() if weight.is_floating_point()}


def _losses(settings: Training) -> Weights:
    if isinstance(settings, Distill):
        return Weights(settings.ce, settings.kl, settings.hidden, settings.temperature)
    return Weights()


def _detached(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in weights.items()}
