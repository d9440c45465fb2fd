"""Which mask of a finished cell is healed: the one that the search chose, or the candidate that heals best.

With `heal.candidates=8`, the eight best complete masks that the search scored are healed in rounds of successive
halving (`pruning/healing/halving.py`, `pruning/runs/heal_trials.py`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pruning.core import trace
from pruning.core.complete_masks import is_complete
from pruning.core.errors import InputError
from pruning.core.heal_record import FOLDER, SelectionRecord
from pruning.core.mask import Mask
from pruning.core.result import DoneResult
from pruning.distributed import collectives
from pruning.healing.halving import Selection, Trial, halve
from pruning.runs.cell import Cell
from pruning.runs.heal_trials import Trials, place_of

if TYPE_CHECKING:
    from pruning.healing.text import HealingText

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The mask to heal, and the folder of its healings, as a path in the cell's folder."""

    mask: Mask
    place: str
    selection: SelectionRecord | None = None


def choose(cell: Cell, done: DoneResult, text: HealingText) -> Choice:
    """The mask to heal. With candidates, they are healed now, unless the cell's folder holds their trials.

    Raises InputError if the search scored no other complete mask, and LossError as `heal` does.
    """
    own = Mask.from_json(done["mask"])
    if cell.heal.candidates == 1:
        return Choice(own, FOLDER)
    losses = candidates(cell, done)
    trials, masks = Trials(cell, done, text, own), list(losses)
    selection = halve(masks, cell.heal.round_tokens, trials.trial, lambda left: trials.clear(masks, left))
    record = _record(selection, own, list(losses.values()))
    log.info(
        "%s heals best of %d candidates, which %s the search's choice: %d tokens, %.0f s",
        *(selection.winner.described(), len(masks), "changes" if record["changed"] else "is"),
        *(record["tokens"], record["seconds"]),
    )
    return Choice(selection.winner, place_of(selection.winner, own), record)


def candidates(cell: Cell, done: DoneResult) -> dict[Mask, float]:
    """The search's mask and the best other complete masks that it scored, with their losses.

    Raises InputError if there is no other one.
    """
    own, budget = Mask.from_json(done["mask"]), done["search"].get("budget")
    entries = collectives.on_first(lambda: list(trace.read_trace(cell.folder / trace.NAME)))
    scored = {
        replace(own, dropped=tuple(line["dropped"])): line["loss"]
        for entry in entries
        if (line := entry.line) is not None
        and "of" not in line
        and is_complete(line["dropped"], done["search"]["k"], budget)
    }
    best = sorted((mask for mask in scored if mask != own), key=lambda mask: (scored[mask], mask.dropped))
    if not best:
        raise InputError(
            f"heal.candidates={cell.heal.candidates} needs several masks to choose from, and algo="
            f"{done['search']['algo']} scored no other complete mask in cell {cell.key}: choose a search that does, "
            "such as greedy or beam, or heal.candidates=1."
        )
    if len(best) + 1 < cell.heal.candidates:
        log.warning(
            "the search scored only %d complete masks, so there are no more candidates", len(best) + 1
        )
    kept = [own, *best[: cell.heal.candidates - 1]]
    return {mask: scored.get(mask, done["calibration"]["loss"]) for mask in kept}


def _record(selection: Selection, own: Mask, losses: list[float]) -> SelectionRecord:
    def one(trial: Trial) -> Any:
        return {"dropped": trial.mask.listed()} | {k: v for k, v in trial._asdict().items() if k != "mask"}

    return {
        "mask": dict(selection.winner.to_json()),
        "changed": selection.winner != own,
        "losses": losses,
        "rounds": [[one(trial) for trial in trials] for trials in selection.rounds],
        "tokens": sum(trial.trained for trial in selection.trials),
        "seconds": round(sum(trial.seconds for trial in selection.trials), 3),
    }
