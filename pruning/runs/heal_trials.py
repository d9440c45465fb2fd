"""The short healings of candidates: each is one line of `healed/trials-KEY.jsonl`.

A selection that was stopped continues from this file. A trial is an ordinary healing with a small budget, so a trial
begins where the same mask's trial of the round before began to lower its rate.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.core import atomic_files
from pruning.core.hashing import digest, text_sha256
from pruning.core.heal_record import FOLDER, RECORD
from pruning.core.mask import Mask
from pruning.core.result import DoneResult
from pruning.distributed import collectives
from pruning.healing.halving import Trial
from pruning.healing.schedule import schedule_of
from pruning.healing.settings import Training
from pruning.runs.cell import Cell
from pruning.runs.reevaluate import recorded_model

if TYPE_CHECKING:
    from pruning.healing.text import HealingText
    from pruning.models.loader import LanguageModel

log = logging.getLogger(__name__)


def place_of(mask: Mask, own: Mask) -> str:
    """The folder of a mask's healings: `healed` for the search's mask, and one of its own for any other."""
    return FOLDER if mask == own else f"{FOLDER}/mask-{text_sha256(json.dumps(mask.to_json()))[:16]}"


@dataclass(frozen=True)
class Trials:
    """The trials of a cell, kept in one file."""

    cell: Cell
    done: DoneResult
    text: HealingText
    own: Mask

    @property
    def path(self) -> Path:
        """The file of the trials. Its name depends on all that a trial depends on, but not on how many there are."""
        heal: Training = self.cell.heal
        named = digest({**heal.identity(), "tokens": None, "text": self.text.beginning})
        return self.cell.folder / FOLDER / f"trials-{named}.jsonl"

    @cached_property
    def known(self) -> dict[tuple[tuple[int, ...], int], Trial]:
        """The trials of earlier runs, by removed units and tokens."""
        return collectives.on_first(self._read)

    def trial(self, mask: Mask, tokens: int, before: int) -> Trial:
        """Heal a mask on `tokens` tokens, continuing from the round that had `before`; or read what that gave."""
        return self.known.get((mask.dropped, tokens)) or self._heal(mask, tokens, before)

    def clear(self, masks: Sequence[Mask], left: Sequence[Mask]) -> None:
        """Remove the states of the candidates that are out; those of the search's mask serve other budgets."""
        for mask in {*masks} - {*left, self.own}:
            folder = self.cell.folder / place_of(mask, self.own)
            collectives.on_first(partial(_remove_states, folder))

    @cached_property
    def _model(self) -> LanguageModel:
        return recorded_model(self.cell, self.done)

    def _heal(self, mask: Mask, tokens: int, before: int) -> Trial:
        from pruning.healing.heal import heal

        settings = replace(self.cell.heal, tokens=tokens, candidates=1)
        home = self.cell.folder / place_of(mask, self.own)
        log.info("candidate %s: healing it on %d tokens", mask.described(), tokens)
        healed = heal(self._model, mask, self.text, settings, home)
        last = healed.curve[-1]
        first = healed.curve[min(_shared(settings, before), last["step"])]  # it may have stopped early
        loss, seconds = healed.summary()["heldout_after"], last["seconds"] - first["seconds"]
        found = Trial(mask, tokens, loss, last["tokens"] - first["tokens"], round(seconds, 3))
        log.info("candidate %s: held-out loss %.4f", mask.described(), loss)
        collectives.on_first(lambda: self._write(found, home / settings.key(self.text.sha256)))
        return found

    def _write(self, found: Trial, folder: Path) -> None:
        """Keep a trial, and remove the state at its end, which no later round needs."""
        from pruning.healing.heal import CHECKPOINTS

        line = found._asdict() | {"mask": found.mask.to_json()}
        atomic_files.append_line(self.path, line)
        finished = (folder / RECORD).exists()
        shutil.rmtree(folder / CHECKPOINTS if finished else folder, ignore_errors=True)

    def _read(self) -> dict[tuple[tuple[int, ...], int], Trial]:
        if not self.path.exists():
            return {}
        atomic_files.mend(self.path)
        lines = [json.loads(line) for _, line in atomic_files.read_lines(self.path)]
        trials = [Trial(**{**line, "mask": Mask.from_json(line["mask"])}) for line in lines]
        return {(trial.mask.dropped, trial.tokens): trial for trial in trials}


def _remove_states(folder: Path) -> None:
    """Remove a candidate's states, and its folder if it holds no finished healing."""
    for trunk in folder.glob("trunk-*"):
        shutil.rmtree(trunk, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _shared(settings: Training, before: int) -> int:
    """The step at which a trial continues from the trial of the round before."""
    earlier = replace(settings, tokens=before)
    if not before or settings.schedule != "wsd":
        return 0
    return schedule_of(settings.schedule, earlier.steps, settings.warmup, settings.decay).stable
