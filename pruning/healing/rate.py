"""Choose the learning rate for healing by short trials, before the full training run: `heal.lr=null`.

No rate is right for all models. A trial heals the mask on the text of the full training run, but only for a
few steps (`TRIAL_STEPS`), with warm-up and decay. Trials are compared by their lowest loss on held-out
windows. Rates are tried from the largest to the smallest, until a rate is no better than the rate before it. If no
trial lowers the held-out loss, training ends with the trials: other candidate masks are not healed, and the
weights from before training are kept.

A trial is an ordinary training run with a small budget. Until its learning rate begins to fall, it has the same
steps as a run with a larger budget, so healing continues the best trial from that step. Each finished trial is
a line of `rates-LINE.jsonl` in the folder of training runs. A command that is run again does not repeat these trials.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

from pruning.core import storage
from pruning.core.errors import DamagedError, LossError, first_line
from pruning.core.records import Point, RateTrial, heldout
from pruning.engine import collectives
from pruning.healing.heal_settings import Training
from pruning.healing.training_text import HealingText

log = logging.getLogger(__name__)

Curve: TypeAlias = Callable[[Training, Path | None], list[Point]]


def with_rate(
    settings: Training, text: HealingText, folder: Path | None, curve: Curve
) -> tuple[Training, list[RateTrial]]:
    """The settings with a learning rate, and the trials that chose it (none if the settings have a rate).

    `curve(settings, place)` trains with these settings, keeps checkpoints in the folder `place`, and returns the
    curve. The trials are kept in `folder`. If no trial lowered the held-out loss, the returned
    settings have the small budget of a trial. Raises LossError if no rate has a finite loss.
    """
    if settings.lr is not None:
        return settings, []
    path = None if folder is None else trials_path(settings, text, folder)
    scratch = None if path is None else path.with_suffix("")  # the trials' checkpoints
    trials = known(settings, text, folder)
    while (chosen := settled(settings, trials)) is None:
        trial = replace(settings, lr=settings.rates[len(trials)], tokens=settings.trial_tokens)
        trials.append(_tried(trial, scratch, curve))
        if path is not None:
            collectives.on_first(partial(storage.append_line, path, storage.sealed(trials[-1])))

    def keep() -> None:
        """Keep the checkpoint from which the chosen training run continues, and remove those of the other trials."""
        if folder is None or scratch is None or not scratch.is_dir():
            return
        trunk = f"trunk-{chosen.line(text.beginning)}"
        if (scratch / trunk).is_dir() and not (folder / trunk).exists():
            (scratch / trunk).rename(folder / trunk)
        shutil.rmtree(scratch)

    collectives.on_first(keep)
    return chosen, trials


def _tried(trial: Training, folder: Path | None, curve: Curve) -> RateTrial:
    """Run a trial and return its record. The record's losses are None if any loss is not finite."""
    log.info("trying the learning rate %g on %d tokens", trial.lr, trial.tokens)
    found: RateTrial = {
        "lr": cast(float, trial.lr),
        "tokens": trial.tokens,
        "heldout_before": None,
        "heldout_loss": None,
        "seconds": 0.0,
    }
    try:
        before, *after = heldout(curve(trial, folder))
    except LossError as error:
        log.warning("the learning rate %g is too large: %s", trial.lr, error)
        return found
    lowest = min(point["heldout_loss"] for point in after)
    log.info("learning rate %g: held-out loss %.4f -> %.4f", trial.lr, before["heldout_loss"], lowest)
    measured = {"heldout_before": before["heldout_loss"], "heldout_loss": lowest}
    return cast(RateTrial, {**found, **measured, "seconds": after[-1]["seconds"]})


def known(settings: Training, text: HealingText, folder: Path | None) -> list[RateTrial]:
    """The finished trials in `folder` with these settings and this text, largest rate first.

    Raises DamagedError if a line of the file is not a trial.
    """

    def read() -> list[RateTrial]:
        if settings.lr is not None or folder is None:
            return []
        if not (path := trials_path(settings, text, folder)).exists():
            return []
        storage.mend(path)
        try:
            trials = [storage.unsealed(json.loads(line), path) for _, line in storage.read_lines(path)]
            by_rate = {one["lr"]: one for one in trials if one["tokens"] == settings.trial_tokens}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedError(
                f"{path} is damaged ({first_line(error)}): remove it, and rates are tried again."
            ) from error
        return [cast(RateTrial, by_rate[rate]) for rate in settings.rates if rate in by_rate]

    return collectives.on_first(read)


def settled(settings: Training, trials: Sequence[RateTrial]) -> Training | None:
    """The settings with the best rate of `trials` (largest rate first); None if another rate must be tried.

    Raises LossError if the loss was not finite in any trial.
    """
    if settings.lr is not None:
        return settings
    losses = [math.inf if trial["heldout_loss"] is None else trial["heldout_loss"] for trial in trials]
    worse = len(losses) > 1 and losses[-1] >= losses[-2] and losses[-1] < math.inf
    if len(losses) < len(settings.rates) and not worse:
        return None
    best = trials[losses.index(min(losses))]
    if min(losses) == math.inf:
        listed = ", ".join(f"{trial['lr']:g}" for trial in trials)
        raise LossError(
            f"the loss of healing is not finite with any of the learning rates {listed}: choose a smaller heal.lr, "
            "or try model.dtype=float32."
        )
    chosen = replace(settings, lr=best["lr"])
    before = max(
        trial["heldout_before"] or 0.0 for trial in trials
    )  # equal in all trials, except that it is missing in a failed one
    return chosen if min(losses) < before else replace(chosen, tokens=settings.trial_tokens, candidates=1)


def trials_path(settings: Training, text: HealingText, folder: Path) -> Path:
    """The file of the trials with these settings on this text."""
    return folder / f"rates-{settings.line(text.beginning)}.jsonl"


def warn_if_useless(best_step: int, settings: Training) -> None:
    """If training did not lower the held-out loss, log a warning that says what to try."""
    if best_step == 0:
        log.warning(
            "training did not lower the held-out loss, so the weights from before it are kept (learning rate %g): "
            "try another text, more tokens in a step, or %s",
            settings.lr,
            "a smaller learning rate" if settings.adapter else "adapters (heal=lora)",
        )
