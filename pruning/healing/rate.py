"""Choose the learning rate of a healing by short trials, before the budget is spent: `heal.lr=null`.

No rate is right for all models. A trial heals the same mask on the same text for a few steps (`TRIAL_STEPS`), with
warm-up and decay, and is judged by its loss on held-out windows. Rates are tried from the largest to the smallest,
and trials end if a rate is no better than the one before it. If no trial lowers the held-out loss, the budget is not
spent: the healing ends after the steps of a trial, and the weights from before it are kept.

A trial is an ordinary healing with a small budget, so the healing continues from the state of the best trial. Trials
are kept as lines of `rates-KEY.jsonl` in the folder of the healings, and a killed command continues after them.
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
from typing import cast

from pruning.core import atomic_files
from pruning.core.errors import LossError
from pruning.core.heal_record import RECORD, RateTrial
from pruning.distributed import collectives
from pruning.healing.curve import Point, heldout
from pruning.healing.settings import Training
from pruning.healing.text import HealingText

log = logging.getLogger(__name__)


def with_rate(
    settings: Training, text: HealingText, folder: Path | None, curve: Callable[[Training], list[Point]]
) -> tuple[Training, list[RateTrial]]:
    """The settings with a learning rate, and the trials that chose it; there are none if the settings have a rate.

    `curve(settings)` heals with some settings and returns the curve. A folder keeps the trials. If no trial helped,
    the budget of the returned settings is that of a trial. Raises LossError if no rate has a finite loss.
    """
    trials = known(settings, text, folder)
    while (chosen := settled(settings, trials)) is None:
        trial = replace(settings, lr=settings.rates[len(trials)], tokens=settings.trial_tokens, candidates=1)
        log.info("trying the learning rate %g on %d tokens", trial.rate, trial.tokens)
        trials.append(_tried(trial, curve))
        if folder is not None:
            path = _path(settings, text, folder)
            collectives.on_first(partial(atomic_files.append_line, path, atomic_files.sealed(trials[-1])))
    if trials and folder is not None:
        for one in trials:
            spent = replace(settings, lr=one["lr"], tokens=one["tokens"], candidates=1)
            collectives.on_first(partial(_clear, folder, spent, chosen, text))
    return chosen, trials


def known(settings: Training, text: HealingText, folder: Path | None) -> list[RateTrial]:
    """The trials in a folder of healings that these settings and this text would repeat, largest rate first."""

    def read() -> list[RateTrial]:
        if settings.lr is not None or folder is None or not (path := _path(settings, text, folder)).exists():
            return []
        atomic_files.mend(path)
        found = (json.loads(line) for _, line in atomic_files.read_lines(path))
        lines = [cast(RateTrial, atomic_files.unsealed(line, path)) for line in found]
        by_rate = {line["lr"]: line for line in lines if line["tokens"] == settings.trial_tokens}
        return [by_rate[rate] for rate in settings.rates if rate in by_rate]

    return collectives.on_first(read)


def settled(settings: Training, trials: Sequence[RateTrial]) -> Training | None:
    """The settings with the best rate of some trials, largest first; None if another rate has to be tried.

    Raises LossError if the loss was not finite in any trial.
    """
    if settings.lr is not None:
        return settings
    losses = [math.inf if trial["heldout_loss"] is None else trial["heldout_loss"] for trial in trials]
    worse = len(losses) > 1 and losses[-1] >= losses[-2] and losses[-1] < math.inf
    if len(losses) < len(settings.rates) and not worse:
        return None
    best = min(range(len(losses)), key=lambda number: losses[number])
    if losses[best] == math.inf:
        raise LossError(
            f"the loss of healing is not finite with any of the learning rates {_listed(trials)}: choose a smaller "
            "heal.lr, or try model.dtype=float32."
        )
    chosen = replace(settings, lr=trials[best]["lr"])
    return chosen if helped(trials) else replace(chosen, tokens=settings.trial_tokens)


def helped(trials: Sequence[RateTrial]) -> bool:
    """Whether any trial lowered the held-out loss."""
    pairs = ((trial["heldout_before"], trial["heldout_loss"]) for trial in trials)
    return any(before is not None and after is not None and after < before for before, after in pairs)


def _tried(trial: Training, curve: Callable[[Training], list[Point]]) -> RateTrial:
    """Heal for a trial. If the loss is not finite, the trial has no loss."""
    seen: list[Point] = []
    try:
        seen = heldout(curve(trial))
        loss: float | None = seen[-1]["heldout_loss"]
    except LossError as error:
        log.warning("the learning rate %g is too large: %s", trial.rate, error)
        loss = None
    if loss is not None:
        log.info("learning rate %g: held-out loss %.4f -> %.4f", trial.rate, seen[0]["heldout_loss"], loss)
    return {
        "lr": trial.rate,
        "tokens": trial.tokens,
        "heldout_before": seen[0]["heldout_loss"] if seen else None,
        "heldout_loss": loss,
        "seconds": seen[-1]["seconds"] if seen else 0.0,
    }


def _clear(folder: Path, spent: Training, chosen: Training, text: HealingText) -> None:
    """Remove the states of a trial that the chosen healing does not continue from."""
    if spent.line(text.beginning) != chosen.line(text.beginning):
        shutil.rmtree(folder / f"trunk-{spent.line(text.beginning)}", ignore_errors=True)
    own = folder / spent.key(text.sha256)
    if spent.key(text.sha256) != chosen.key(text.sha256) and not (own / RECORD).exists():
        shutil.rmtree(own, ignore_errors=True)


def _path(settings: Training, text: HealingText, folder: Path) -> Path:
    return folder / f"rates-{replace(settings, candidates=1).line(text.beginning)}.jsonl"


def _listed(trials: Sequence[RateTrial]) -> str:
    return ", ".join(f"{trial['lr']:g}" for trial in trials)
